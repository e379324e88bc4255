"""AdamW with layer-wise decay, and the learning-rate schedule (docs/method.md)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cikd_cli.models import network

_FEW_WEIGHTS = 10_000_000  # between ViT-Tiny, where one of two threads is as fast, and ViT-Base (docs/benchmarks.md)


def learning_rate(epoch: float, *, epochs: float, warmup: float, peak: float, floor: float = 0.0) -> float:
    """Linear warm-up from 0, then a half cosine to `floor`, at the fractional epoch (docs/method.md)."""
    if epoch < warmup:
        return peak * epoch / warmup
    if epochs <= warmup:
        return peak
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


def parameter_groups(
    method: nn.Module, student: nn.Module, *, weight_decay: float, layer_decay: float, token_decay: bool = False
) -> list[dict[str, Any]]:
    """AdamW groups of all that is trained, each with `lr_scale` = layer_decay^(deepest level - its level).

    method: holds the student, or is it. The student's levels are those of `network.levels`; what is trained beside it
    lies at the top. Tensors of one dimension are not decayed, nor those that `network.undecayed` names, unless
    `token_decay` says so.
    """
    levels, top = network.levels(student)
    kept = () if token_decay else network.undecayed(student)
    own = {id(parameter): name for name, parameter in student.named_parameters()}
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for parameter in method.parameters():
        if not parameter.requires_grad:
            continue
        name = own.get(id(parameter), "")
        level = levels.get(name, top)
        decayed = parameter.ndim >= 2 and not name.endswith(kept)
        group = groups.setdefault(
            (level, decayed),
            {"params": [], "weight_decay": weight_decay if decayed else 0.0, "lr_scale": layer_decay ** (top - level)},
        )
        group["params"].append(parameter)
    return list(groups.values())


def create_optimizer(groups: list[dict[str, Any]], *, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW, eps 1e-8, fused; its learning rate is set before every step."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=1e-8, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Each group gets rate x its lr_scale; the floor of the schedule is scaled with it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


@contextmanager
def single_threaded(model: nn.Module) -> Iterator[None]:
    """One thread for work on every weight of a small network on a CPU.

    The fused AdamW gathers all threads anew for each tensor. On two cores that gains nothing where tensors are small,
    and beside another program it takes several times as long (docs/benchmarks.md). The number of threads is the
    process's: a thread that first calls torch meanwhile keeps to one.
    """
    weights, threads = list(model.parameters()), torch.get_num_threads()
    if weights[0].device.type != "cpu" or sum(weight.numel() for weight in weights) > _FEW_WEIGHTS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
