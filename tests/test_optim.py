"""The learning rate of every moment, and which parameter gets which share of both decays (docs/method.md)."""

import math
from types import SimpleNamespace

import pytest
import torch

from cikd_cli.data.batch import Batch
from cikd_cli.engine import optim
from cikd_cli.engine.optim import (
    create_optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
    single_threaded,
)
from cikd_cli.engine.step import Training, train_step
from cikd_cli.methods.ali import freeze_untapped
from cikd_cli.methods.supervised import Supervised
from cikd_cli.models import create_student, create_teacher
from cikd_cli.models.spec import HALF
from cikd_cli.processes.world import World
from cikd_cli.settings.methods import FinetuneTeacherConfig

LABELS = {"weight_decay": 0.05, "layer_decay": 0.75}
ALI = {"weight_decay": 0.05, "layer_decay": 1.0, "token_decay": True}


def by_name(model: torch.nn.Module, **settings: object) -> dict[str, tuple[float, float]]:
    """Parameter name -> (lr_scale, weight_decay)."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, model, **settings)
    return {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.fixture(scope="module")
def student():
    return create_student("vit_tiny", num_classes=10, image_size=32)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 0),
        (2.5, 0.5e-3),
        (5, 1e-3),
        (152.5, (1e-3 + 1e-6) / 2),
        (78.75, 1e-6 + (1e-3 - 1e-6) * 0.5 * (1 + math.sqrt(0.5))),
        (300, 1e-6),
    ],
)
def test_the_rate_rises_linearly_from_zero_and_falls_as_half_a_cosine_to_its_floor(epoch, rate):
    assert learning_rate(epoch, epochs=300, warmup=5, peak=1e-3, floor=1e-6) == pytest.approx(rate, rel=1e-9, abs=1e-15)


def test_the_floor_is_zero_unless_said():
    assert learning_rate(10, epochs=10, warmup=2, peak=1) == pytest.approx(0)


def test_the_warm_up_starts_at_zero_and_not_at_the_floor():
    assert learning_rate(0, epochs=10, warmup=2, peak=1, floor=0.5) == 0
    assert learning_rate(1, epochs=10, warmup=2, peak=1, floor=0.5) == 0.5


def test_without_a_warm_up_the_first_step_runs_at_the_peak():
    assert learning_rate(0, epochs=10, warmup=0, peak=0.3) == 0.3


def test_a_warm_up_longer_than_the_run_never_divides_by_zero():
    assert learning_rate(1, epochs=2, warmup=4, peak=1) == 0.25
    assert learning_rate(3, epochs=3, warmup=3, peak=1) == 1


def test_the_rate_never_rises_after_the_warm_up():
    rates = [learning_rate(step / 7, epochs=20, warmup=3, peak=1, floor=0.1) for step in range(21, 141)]
    assert rates == sorted(rates, reverse=True)


def test_layer_decay_has_fourteen_levels(student):
    scales = {name: scale for name, (scale, _) in by_name(student, **LABELS).items()}
    for name in ("patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token"):
        assert scales[name] == pytest.approx(0.75**13)
    for block in range(1, 13):
        inside = {scale for name, scale in scales.items() if name.startswith(f"blocks.{block - 1}.")}
        assert len(inside) == 1
        assert inside.pop() == pytest.approx(0.75 ** (13 - block))
    for name in ("norm.weight", "norm.bias", "head.weight", "head.bias"):
        assert scales[name] == 1


def test_layer_decay_has_the_printed_values(student):
    scales = {name: scale for name, (scale, _) in by_name(student, **LABELS).items()}
    printed = [scales[n] for n in ("cls_token", "blocks.0.norm1.weight", "blocks.11.norm1.weight", "head.weight")]
    assert printed == pytest.approx([0.0238, 0.0317, 0.75, 1.0], abs=5e-5)


def test_positions_and_extra_tokens_of_a_teacher_are_at_the_bottom_and_not_decayed():
    teacher = create_teacher("deit_tiny_distilled_patch16_224", num_classes=4, image_size=32)
    groups = by_name(teacher, **LABELS)
    assert {groups[name] for name in ("cls_token", "dist_token", "pos_embed")} == {(0.75**13, 0.0)}
    assert groups["head_dist.weight"] == (1.0, 0.05)


def test_biases_and_norms_are_not_decayed_and_matrices_are(student):
    for name, (_, decay) in by_name(student, **ALI).items():
        parameter = student.get_parameter(name)
        assert decay == (0.05 if parameter.ndim >= 2 else 0.0), name


def test_the_class_token_is_decayed_in_ali_and_not_with_labels(student):
    assert by_name(student, **ALI)["cls_token"] == (1.0, 0.05)
    assert by_name(student, **LABELS)["cls_token"] == (0.75**13, 0.0)


def test_only_what_trains_is_in_a_group_and_only_once():
    student = create_student("vit_tiny", num_classes=10, image_size=32)
    freeze_untapped(student, 12)
    listed = [id(p) for group in parameter_groups(student, student, **ALI) for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in student.parameters() if p.requires_grad}
    assert id(student.pos_embed) not in listed


def test_the_optimizer_has_the_recipes_constants(student):
    optimizer = create_optimizer(parameter_groups(student, student, **ALI), betas=(0.9, 0.95))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(group["eps"], group["betas"]) for group in optimizer.param_groups} == {(1e-8, (0.9, 0.95))}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.05, 0.0}


def test_the_floor_is_scaled_with_the_layer(student):
    optimizer = create_optimizer(parameter_groups(student, student, **LABELS), betas=(0.9, 0.999))
    set_learning_rate(optimizer, learning_rate(10, epochs=10, warmup=0, peak=1.0, floor=1e-6))
    rates = {group["lr"] for group in optimizer.param_groups}
    assert min(rates) == pytest.approx(1e-6 * 0.75**13)
    assert max(rates) == pytest.approx(1e-6)


def test_the_first_step_at_rate_zero_moves_nothing():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = create_optimizer([{"params": [weight], "weight_decay": 0.5, "lr_scale": 1.0}], betas=(0.9, 0.95))
    set_learning_rate(optimizer, learning_rate(0, epochs=10, warmup=2, peak=1.0))
    weight.sum().backward()
    optimizer.step()
    assert torch.equal(weight, torch.ones(2, 2))


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(("few", "expected"), [(None, 1), (10, 3)])
def test_one_thread_updates_a_small_network(few, expected, monkeypatch):
    monkeypatch.setattr(optim, "_FEW_WEIGHTS", few or optim._FEW_WEIGHTS)
    model = create_student("custom", num_classes=3, image_size=8, patch_size=8, end_heads=2, width=8, depth=2, heads=1)
    method = Supervised(model, mean=HALF, std=HALF, smoothing=0.0)
    world = World(torch.device("cpu"))
    training = Training(FinetuneTeacherConfig(), method, SimpleNamespace(steps_per_epoch=1), "fp32", world)
    threads = []
    training.optimizer.register_step_pre_hook(lambda *_: threads.append(torch.get_num_threads()))
    batch = Batch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), None, torch.arange(2))
    train_step([training], batch, world, step=0, epoch=0)
    assert threads == [expected]
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_elsewhere_than_on_a_cpu_the_threads_are_left_alone():
    with single_threaded(torch.nn.Linear(4, 4, device="meta")):
        assert torch.get_num_threads() == 3
