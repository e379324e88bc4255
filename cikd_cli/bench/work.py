"""The steps as `bench.count` follows them: on the CPU, without an optimizer, on blank images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cikd_cli.analysis import count
from cikd_cli.bench.config import Stage
from cikd_cli.bench.networks import Case, build_job, build_rival
from cikd_cli.bench.reference import load_reference
from cikd_cli.engine.precision import DTYPES, autocast, choose_attention
from cikd_cli.methods.ali import ali_loss
from cikd_cli.models.taps import QKV
from cikd_cli.training.rehearsal import blank_loss

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """The loss of some images, called with their number and copies of the networks; its backward is followed too."""

    networks: tuple[Any, ...]
    loss: Callable[..., Tensor]

    def flops(self) -> int:
        """As `count.flops`, of one image; a batch takes as many times that."""
        return count.flops(self.networks, partial(self.loss, 1))

    def peak_bytes(self, images: int) -> int:
        """As `count.peak_bytes`, of a batch."""
        return count.peak_bytes(self.networks, partial(self.loss, images))


def step_work(case: Case, stage: Stage, precision: str, device: torch.device) -> dict[str, Work]:
    """Forward and backward of a stage: of the reference, of the tool, and in lm with "cached" logits.

    device: whose kind of attention is taken; everything runs on the CPU.
    """
    work = {"reference": _reference(case, stage, precision), "tool": _tool(case, stage, precision, device)}
    if stage == "lm":
        work["cached"] = _tool(case, stage, precision, device, cached=True)
    return work


def relation_work(case: Case, precision: str) -> dict[str, Work]:
    """The loss of one pair of blocks, of the reference and of the tool."""
    shapes = tap_shapes(case)

    def loss_of(name: str, images: int) -> Tensor:
        with autocast(precision, CPU):
            return relation_losses()[name](*random_taps(shapes, images, precision, CPU))

    return {name: Work((), partial(loss_of, name)) for name in relation_losses()}


def relation_losses() -> dict[str, Callable[[QKV, QKV], Tensor]]:
    """QK plus VV of one (teacher, student) pair of blocks, as the reference and as the tool has it."""
    return {
        "reference": load_reference().block_loss,
        "tool": lambda teacher, student: torch.stack(list(ali_loss([(teacher, student)]).values())).sum(),
    }


def tap_shapes(case: Case) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(heads, tokens, head_dim) of the first block's q of teacher and of student."""
    shapes = []
    for vit in reversed(build_rival(case, "ali")):
        attn, tokens = vit.blocks[0].attn, vit.patch_embed.num_patches + 1
        shapes.append((attn.num_heads, tokens, attn.head_dim))
    return shapes[0], shapes[1]


def random_taps(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], images: int, precision: str, device: torch.device
) -> tuple[QKV, QKV]:
    """q, k, v of these shapes, (images, heads, tokens, head_dim), of teacher and student; the latter want gradients."""
    kind: dict[str, Any] = {"dtype": DTYPES[precision], "device": device}
    teacher, student = ((images, *shape) for shape in shapes)
    return (
        QKV(*(torch.randn(teacher, **kind) for _ in range(3))),
        QKV(*(torch.randn(student, **kind, requires_grad=True) for _ in range(3))),
    )


class KnownLogits:
    """In place of a FrozenTeacher: logits for one batch, (B, C) float32, where a step is counted with a full cache."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def logits(self, images: Tensor) -> Tensor:
        """The first rows, one an image; images: (B, 3, H, W)."""
        return self._logits[: len(images)]


def _tool(case: Case, stage: Stage, precision: str, device: torch.device, *, cached: bool = False) -> Work:
    on_cpu = "bf16" if precision == "fp16" else precision  # as many bytes, and a CPU has it
    job = build_job(case.but(precision=on_cpu), stage, CPU)
    method: Any = job.method
    choose_attention(method, precision, device)
    if cached:
        method.teacher = KnownLogits(torch.zeros(case.lm.batch_size, case.num_classes))
    return Work((method,), lambda images, copy: blank_loss(job, copy, images))


def _reference(case: Case, stage: Stage, precision: str) -> Work:
    rival = load_reference()
    config = case.stage(stage)
    sides = (3, config.image_size, config.image_size)

    def loss(images: int, student: torch.nn.Module, teacher: torch.nn.Module) -> Tensor:
        views = torch.zeros(images, *sides)
        with autocast(precision, CPU):
            if stage == "ali":
                terms = rival.ali_terms(student, teacher, views, torch.zeros(images, *sides), lob=case.lob)
            else:
                terms = rival.lm_terms(student, teacher, views, torch.zeros(images, dtype=torch.int64))
            total: Tensor = terms[0] + terms[1]
            return total

    student, teacher = build_rival(case, stage)
    return Work((student.train(), teacher), loss)
