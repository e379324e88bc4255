"""Scores against counting by hand, and the cost of networks whose cost is known."""

import json

import numpy as np
import pytest
import timm
import torch
from sklearn.metrics import balanced_accuracy_score

from cikd_cli.analysis import cost
from cikd_cli.analysis.scores import score
from cikd_cli.errors import CikdError
from cikd_cli.models import create_student


def logits_for(guesses: list[int], classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(guesses), classes).float()


def test_every_image_weighs_the_same():
    scores = score(logits_for([0, 0, 0, 1, 2, 2], 3), torch.tensor([0, 0, 0, 0, 0, 2]))
    assert scores.top1 == pytest.approx(100 * 4 / 6)
    assert scores.images == 6


def test_top5_counts_the_five_best_guesses():
    logits = torch.arange(7.0).expand(7, 7)
    assert score(logits, torch.arange(7)).top5 == pytest.approx(100 * 5 / 7)
    assert score(logits, torch.arange(7)).top1 == pytest.approx(100 / 7)


@pytest.mark.parametrize("classes", [2, 4])
def test_top5_of_few_classes_counts_them_all(classes):
    logits = torch.arange(float(classes)).expand(classes, classes)
    assert score(logits, torch.arange(classes)).top5 == 100


def test_balanced_accuracy_is_the_mean_over_classes_not_over_images():
    truth = [0] * 8 + [1] * 2
    guesses = [0] * 8 + [0, 1]
    scores = score(logits_for(guesses, 2), torch.tensor(truth))
    assert scores.balanced_accuracy == pytest.approx(75)
    assert scores.balanced_accuracy == pytest.approx(100 * balanced_accuracy_score(truth, guesses))
    assert scores.top1 == pytest.approx(90)


def test_a_class_without_images_has_no_accuracy_and_does_not_count():
    scores = score(logits_for([0, 2, 1], 3), torch.tensor([0, 0, 1]))
    assert np.isnan(scores.per_class[2])
    assert scores.balanced_accuracy == pytest.approx(75)
    assert scores.as_dict(["a", "b", "c"])["classes"][2] == {"name": "c", "images": 0, "correct": 0, "accuracy": None}


def test_rows_of_the_confusion_matrix_are_true_classes():
    scores = score(logits_for([1, 1, 0], 3), torch.tensor([0, 0, 2]))
    assert scores.confusion.tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]


def test_the_dictionary_is_plain_and_unrounded():
    values = score(logits_for([0, 1, 1], 2), torch.tensor([0, 1, 0])).as_dict(["a", "b"])
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["top1"] == 100 * (2 / 3)
    assert values["classes"][0] == {"name": "a", "images": 2, "correct": 1, "accuracy": 50.0}


@pytest.mark.parametrize(
    ("logits", "targets", "words"),
    [
        (torch.zeros(0, 3), [], "no image"),
        (torch.zeros(2, 3), [0, -1], "no label"),
        (torch.zeros(2, 3), [0, 3], "no label"),
        (torch.tensor([[0.0, float("nan")]]), [0], "not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits, targets, words):
    with pytest.raises(CikdError, match=words):
        score(logits, torch.tensor(targets, dtype=torch.int64))


@pytest.mark.parametrize(("name", "known"), [("vit_base_patch16_224", 17.56e9), ("deit_tiny_patch16_224", 1.254e9)])
def test_multiply_adds_of_known_networks(name, known):
    assert cost.macs(timm.create_model(name), 224) == pytest.approx(known, rel=1e-3)


def test_counting_leaves_fused_attention_as_it_was():
    model = timm.create_model("deit_tiny_patch16_224", depth=2)
    model.blocks[1].attn.fused_attn = False
    cost.macs(model, 224)
    assert [block.attn.fused_attn for block in model.blocks] == [True, False]


def test_parameters_with_and_without_the_fixed_positions():
    student = create_student("vit_tiny", num_classes=100)
    assert cost.parameters(student) == 5_543_716
    assert cost.parameters(student, trainable=True) == 5_505_892


def test_latency_is_milliseconds_of_one_image():
    model = create_student(
        "custom", width=24, depth=2, heads=2, end_heads=2, num_classes=3, image_size=16, patch_size=8
    )
    assert 0 < cost.latency(model, 16, "cpu", repeats=3) < 10_000
