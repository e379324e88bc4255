"""The equations once more: slow, in float64, one number at a time, sharing no code with the package."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cikd_cli.models import QKV


def seeded(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers that are the same on every call."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def log_softmax(row: Sequence[float]) -> list[float]:
    """log p of one row, by the largest value, the only form that survives large differences."""
    top = max(row)
    total = math.log(sum(math.exp(x - top) for x in row))
    return [x - top - total for x in row]


def relation_log_map(a: Tensor, b: Tensor) -> Tensor:
    """log softmax over the keys of a b' / sqrt(d), (B, K, N, N), one query at a time (eq. 2, 3)."""
    images, heads, tokens, width = a.shape
    a, b = a.detach().double(), b.detach().double()
    result = torch.empty(images, heads, tokens, tokens, dtype=torch.float64)
    for image in range(images):
        for head in range(heads):
            for query in range(tokens):
                scores = [
                    float(a[image, head, query] @ b[image, head, key]) / math.sqrt(width) for key in range(tokens)
                ]
                result[image, head, query] = torch.tensor(log_softmax(scores), dtype=torch.float64)
    return result


def kl(log_p: Sequence[float], log_q: Sequence[float]) -> float:
    """KL(p || q) of one row."""
    return sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))


def relation_kl(teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor]) -> float:
    """Eq. 4: sum over keys, mean over images, heads and queries."""
    log_t, log_s = relation_log_map(*teacher), relation_log_map(*student)
    rows = [
        kl(t, s) for t, s in zip(log_t.flatten(0, 2).tolist(), log_s.flatten(0, 2).tolist(), strict=True)
    ]  # one row per image, head and query
    return sum(rows) / len(rows)


def ali_loss(pairs: Sequence[tuple[QKV, QKV]]) -> float:
    """Eq. 5 and 6: QK and VV of every pair, all weights 1."""
    total = 0.0
    for teacher, student in pairs:
        total += relation_kl((teacher.q, teacher.k), (student.q, student.k))
        total += relation_kl((teacher.v, teacher.v), (student.v, student.v))
    return total


def decoupled_kd(
    student: Tensor, teacher: Tensor, targets: Tensor, *, temperature: float = 1.0, weighted: bool = False
) -> tuple[float, float]:
    """(TCKD, NCKD) of docs/method.md: means over the images, without alpha and without T^2."""
    tckd = nckd = 0.0
    for s, t, target in zip(student.double().tolist(), teacher.double().tolist(), targets.tolist(), strict=True):
        s_binary, s_others = _decouple([x / temperature for x in s], target)
        t_binary, t_others = _decouple([x / temperature for x in t], target)
        tckd += kl(t_binary, s_binary)
        nckd += kl(t_others, s_others) * (math.exp(t_binary[1]) if weighted else 1.0)
    return tckd / len(targets), nckd / len(targets)


def softmax_kl(teacher: Tensor, student: Tensor) -> float:
    """Plain KL(softmax teacher || softmax student), mean over the images."""
    rows = zip(teacher.double().tolist(), student.double().tolist(), strict=True)
    return sum(kl(log_softmax(t), log_softmax(s)) for t, s in rows) / len(teacher)


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> float:
    """Spec 1.7: (1 - eps) x the target's -log p plus eps x the mean -log p over all classes."""
    total = 0.0
    for row, target in zip(logits.double().tolist(), targets.tolist(), strict=True):
        log_p = log_softmax(row)
        total += -(1 - smoothing) * log_p[target] - smoothing * sum(log_p) / len(log_p)
    return total / len(targets)


def tokens(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    return seeded(*shape, seed=seed, scale=scale), seeded(*shape, seed=seed + 100, scale=scale)


def one_row_maps(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(q, k) whose logits q k' / sqrt(d) are exactly `scores` (N, N): k is sqrt(d) x the identity."""
    size = len(scores)
    return scores[None, None], math.sqrt(size) * torch.eye(size)[None, None]


def labels(images: int, classes: int) -> Tensor:
    return torch.arange(images) * 7 % classes


def slow(student: Tensor, teacher: Tensor, targets: Tensor, **settings: float) -> list[float]:
    return list(decoupled_kd(student, teacher, targets, **settings))


def _decouple(z: Sequence[float], target: int) -> tuple[list[float], list[float]]:
    """log p of (target, all the rest), and of each class among the rest."""
    others = [x for j, x in enumerate(z) if j != target]
    top = max(others)
    rest = top + math.log(sum(math.exp(x - top) for x in others))
    margin = z[target] - rest
    return [-_softplus(-margin), -_softplus(margin)], [x - rest for x in others]


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
