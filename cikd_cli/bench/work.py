"""The steps as `bench.count` follows them: on the CPU, without an optimizer, on blank images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cikd_cli.bench import count
from cikd_cli.bench.networks import Case, Stage, build_method, build_rival, build_student, build_teacher
from cikd_cli.bench.reference import load_reference
from cikd_cli.data.loader import Batch
from cikd_cli.engine.precision import DTYPES, autocast, choose_attention
from cikd_cli.methods.ali import ali_loss
from cikd_cli.models.taps import QKV

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """Copies of the networks go into the loss, whose forward and backward are followed."""

    networks: tuple[Any, ...]
    loss: count.Loss

    def flops(self) -> int:
        """As `count.flops`."""
        return count.flops(self.networks, self.loss)

    def peak_bytes(self) -> int:
        """As `count.peak_bytes`."""
        return count.peak_bytes(self.networks, self.loss)


def step_work(case: Case, stage: Stage, precision: str, device: torch.device) -> dict[str, Work]:
    """Forward and backward of a batch: of the reference, of the tool, and in lm with "cached" logits.

    device: whose kind of attention is taken; everything runs on the CPU.
    """
    work = {"reference": _reference(case, stage, precision), "tool": _tool(case, stage, precision, device)}
    if stage == "lm":
        logits = torch.zeros(case.lm.batch_size, case.num_classes)
        work["cached"] = _tool(case, stage, precision, device, logits)
    return work


def relation_work(case: Case, precision: str) -> dict[str, Work]:
    """The loss of one pair of blocks, of the reference and of the tool."""
    shapes = tap_shapes(case)
    return {name: Work((), partial(_relation_loss, shapes, precision, name)) for name in relation_losses()}


def relation_losses() -> dict[str, Callable[[QKV, QKV], Tensor]]:
    """QK plus VV of one (teacher, student) pair of blocks, as the reference and as the tool has it."""
    return {
        "reference": load_reference().block_loss,
        "tool": lambda teacher, student: torch.stack(list(ali_loss([(teacher, student)]).values())).sum(),
    }


def tap_shapes(case: Case) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(B, heads, tokens, head_dim) of the first block's q of teacher and of student."""
    shapes = []
    for vit in (build_teacher(case), build_student(case, "ali")):
        attn, tokens = vit.blocks[0].attn, vit.patch_embed.num_patches + 1
        shapes.append((case.ali.batch_size, attn.num_heads, tokens, attn.head_dim))
    return shapes[0], shapes[1]


def random_taps(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], precision: str, device: torch.device
) -> tuple[QKV, QKV]:
    """q, k, v of these shapes, of teacher and student; the latter want gradients."""
    kind: dict[str, Any] = {"dtype": DTYPES[precision], "device": device}
    teacher, student = shapes
    return (
        QKV(*(torch.randn(teacher, **kind) for _ in range(3))),
        QKV(*(torch.randn(student, **kind, requires_grad=True) for _ in range(3))),
    )


def _tool(case: Case, stage: Stage, precision: str, device: torch.device, logits: Tensor | None = None) -> Work:
    method = build_method(case, stage, device=CPU, precision=precision, logits=logits).train()
    choose_attention(method, precision, device)
    config = case.stage(stage)
    shape = (config.batch_size, 3, config.image_size, config.image_size)

    def loss(method: torch.nn.Module) -> Tensor:
        images = torch.zeros(shape, dtype=torch.uint8)
        places = torch.zeros(shape[0], dtype=torch.int64)
        batch = Batch(images, places, torch.zeros_like(images) if stage == "ali" else None, places)
        with autocast(precision, CPU):
            terms: dict[str, Tensor] = method(batch, config.epochs)  # an epoch in which the teacher has its full weight
            return torch.stack(list(terms.values())).sum()

    return Work((method,), loss)


def _reference(case: Case, stage: Stage, precision: str) -> Work:
    rival = load_reference()
    config = case.stage(stage)
    shape = (config.batch_size, 3, config.image_size, config.image_size)

    def loss(student: torch.nn.Module, teacher: torch.nn.Module) -> Tensor:
        images = torch.zeros(shape)
        with autocast(precision, CPU):
            if stage == "ali":
                terms = rival.ali_terms(student, teacher, images, torch.zeros(shape), lob=case.lob)
            else:
                terms = rival.lm_terms(student, teacher, images, torch.zeros(shape[0], dtype=torch.int64))
            total: Tensor = terms[0] + terms[1]
            return total

    student, teacher = build_rival(case, stage)
    return Work((student.train(), teacher), loss)


def _relation_loss(shapes: tuple[tuple[int, ...], tuple[int, ...]], precision: str, name: str) -> Tensor:
    with autocast(precision, CPU):
        return relation_losses()[name](*random_taps(shapes, precision, CPU))
