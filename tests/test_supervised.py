"""Cross entropy with label smoothing, and the linear probe."""

import pytest
import reference
import timm
import torch

from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.methods import Moment
from cikd_cli.methods.supervised import Supervised, cross_entropy
from cikd_cli.models.teachers import create_scratch_teacher

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def batch() -> Batch:
    pixels = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Batch(pixels, torch.tensor([0, 3, 1, 1]), None, torch.arange(4))


def probe(**settings: object) -> Supervised:
    torch.manual_seed(0)
    model = create_scratch_teacher(num_classes=4, image_size=16, patch_size=8, width=12, depth=2, heads=3)
    torch.nn.init.normal_(model.head.weight)
    return Supervised(model, mean=MEAN, std=STD, smoothing=0.1, **settings)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("classes", [2, 10])
def test_smoothing_spreads_its_share_over_all_classes(smoothing, classes):
    logits, targets = reference.seeded(5, classes, scale=3.0), torch.arange(5) % classes
    expected = reference.smoothed_cross_entropy(logits, targets, smoothing)
    assert cross_entropy(logits, targets, smoothing=smoothing).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [50.0, 600.0])
def test_large_logits_stay_finite_and_right(size):
    logits, targets = size * torch.tensor([[1.0, -1.0, 0.0], [-1.0, -1.0, 1.0]]), torch.tensor([1, 0])
    expected = reference.smoothed_cross_entropy(logits, targets, 0.1)
    assert cross_entropy(logits, targets, smoothing=0.1).item() == pytest.approx(expected, rel=1e-6)


def test_half_precision_logits_are_computed_in_float32():
    logits, targets = reference.seeded(5, 10, scale=3.0).bfloat16(), torch.arange(5)
    loss = cross_entropy(logits, targets, smoothing=0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference.smoothed_cross_entropy(logits, targets, 0.1), rel=1e-5)


def test_the_only_term_is_the_cross_entropy_of_the_normalised_images():
    method = probe().eval()
    with torch.no_grad():
        logits = method.student(normalise(batch().images, MEAN, STD))
    terms = method(batch(), Moment(0))
    assert list(terms) == ["ce"]
    assert terms["ce"].item() == pytest.approx(reference.smoothed_cross_entropy(logits, batch().targets, 0.1), rel=1e-5)


def test_fine_tuning_reaches_every_parameter():
    method = probe()
    method(batch(), Moment(0))["ce"].backward()
    assert [name for name, p in method.student.named_parameters() if p.grad is None] == []


def test_a_linear_probe_trains_the_head_alone():
    method = probe(linear_probe=True)
    method(batch(), Moment(0))["ce"].backward()
    assert [name for name, p in method.student.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    assert [name for name, p in method.student.named_parameters() if p.grad is not None] == ["head.weight", "head.bias"]


def test_a_linear_probe_keeps_its_trunk_in_eval_mode():
    method = probe(linear_probe=True).train()
    method(batch(), Moment(0))
    assert not any(module.training for module in method.student.blocks.modules())


def test_a_linear_probe_sees_the_logits_that_evaluation_sees():
    method = probe(linear_probe=True)
    with torch.no_grad():
        logits = method.student.eval()(normalise(batch().images, MEAN, STD))
    loss = method(batch(), Moment(0))["ce"].item()
    assert loss == pytest.approx(reference.smoothed_cross_entropy(logits, batch().targets, 0.1), rel=1e-5)


@pytest.mark.parametrize("linear_probe", [False, True])
def test_a_distilled_deit_trains_both_its_heads_on_the_logits_of_evaluation(linear_probe):
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=4, img_size=16, depth=1)
    torch.nn.init.normal_(model.head_dist.weight)
    with torch.no_grad():
        logits = model.eval()(normalise(batch().images, MEAN, STD))
    method = Supervised(model.train(), mean=MEAN, std=STD, smoothing=0.1, linear_probe=linear_probe)
    loss = method(batch(), Moment(0))["ce"]
    loss.backward()
    assert loss.item() == pytest.approx(reference.smoothed_cross_entropy(logits, batch().targets, 0.1), rel=1e-5)
    assert model.head.weight.grad is not None
    assert model.head_dist.weight.grad is not None
