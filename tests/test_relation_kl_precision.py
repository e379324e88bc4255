"""The relation loss in half precision, under autocast, and at scores that overflow or underflow."""

import math

import pytest
import reference
import torch
from reference import one_row_maps, tokens
from torch import Tensor

from cikd_cli.kernels import relation_kl as kernel
from cikd_cli.kernels.relation_kl import LARGE, SMALL, materialised_relation_kl, relation_kl


def log_of_softmax_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """The released form, on scores (N, N)."""
    t, s = teacher.softmax(-1), student.softmax(-1)
    return (t * (t.log() - s.log())).sum(-1).mean()


def test_bf16_inputs_are_taken_as_they_are_and_computed_in_float32():
    teacher = tuple(x.bfloat16() for x in tokens((2, 3, 9, 5), 1, scale=3.0))
    student = tuple(x.bfloat16() for x in tokens((2, 3, 9, 8), 2, scale=3.0))
    loss = relation_kl(teacher, student)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference.relation_kl(teacher, student), rel=1e-5)


def test_cpu_autocast_does_not_reach_inside():
    teacher, student = tokens((2, 3, 9, 5), 1, scale=3.0), tokens((2, 3, 9, 8), 2, scale=3.0)
    alone = relation_kl(teacher, student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(relation_kl(teacher, student), alone)


def test_half_precision_products_cannot_overflow():
    q, k = torch.full((1, 1, 3, 8), 300.0).half(), reference.seeded(1, 1, 3, 8, scale=300).half()
    assert (q @ k.transpose(-2, -1)).isinf().any()  # what a product in half precision would give
    student = tokens((1, 1, 3, 8), 2)
    assert relation_kl((q, k), student).item() == pytest.approx(reference.relation_kl((q, k), student), rel=1e-5)


@pytest.mark.parametrize("size", [50.0, 600.0])
def test_large_scores_give_the_definitions_value_and_finite_gradients(size):
    generator = torch.Generator().manual_seed(3)
    scores_t = size * (2 * torch.rand(6, 6, generator=generator) - 1)
    scores_s = size * (2 * torch.rand(6, 6, generator=generator) - 1)
    scores_t[0], scores_s[0] = size, -size  # a row that is flat although it is large
    scores_t[1, 0], scores_t[1, 1], scores_s[1, 0], scores_s[1, 1] = size, -size, -size, size
    teacher, (q, k) = one_row_maps(scores_t), one_row_maps(scores_s)
    q.requires_grad_()
    loss = relation_kl(teacher, (q, k))
    assert loss.item() == pytest.approx(reference.relation_kl(teacher, (q, k)), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, q)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize(("share", "tries"), [(0.999, [False]), (1.001, [False, True])], ids=["inside", "outside"])
@pytest.mark.parametrize(("limit", "sign"), [(math.log(LARGE / 9), 1), (-math.log(SMALL / 9), -1)], ids=["up", "down"])
def test_rows_at_the_limits_up_to_which_their_largest_is_not_taken_off_are_exact(
    limit, sign, share, tries, monkeypatch
):
    seen, logits = [], kernel._logits
    monkeypatch.setattr(
        kernel, "_logits", lambda *x, shifted, out: (seen.append(shifted), logits(*x, shifted=shifted, out=out))
    )
    generator = torch.Generator().manual_seed(4)
    # heads of one channel, whose logits are products of two numbers
    numbers = 1.8 * torch.rand(4, 2, 2, 9, 1, generator=generator) - 0.9
    numbers[:, :, 1], numbers[1, :, 1] = 1, sign  # a head in which nine logits of the teacher are at the limit
    numbers[3, :, 1] = -0.9  # and all of the student are small
    (*teacher, q, k) = numbers * (share * limit) ** 0.5
    wide = [x.double() for x in (*teacher, q, k)]
    student = tuple(x.requires_grad_() for x in (q.clone(), k.clone()))
    exact = tuple(x.requires_grad_() for x in wide[2:])
    expected, loss = materialised_relation_kl(tuple(wide[:2]), exact), relation_kl(tuple(teacher), student)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    wanted = torch.autograd.grad(expected, exact)
    for found, right in zip(torch.autograd.grad(loss, student), wanted, strict=True):
        assert (found - right).norm() < 1e-5 * right.norm()
    assert list(dict.fromkeys(seen)) == tries


def test_it_is_finite_where_the_logarithm_of_a_softmax_is_not():
    scores_t, scores_s = torch.tensor([[180.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 180.0], [0.0, 0.0]])
    assert not log_of_softmax_kl(scores_t, scores_s).isfinite()
    assert relation_kl(one_row_maps(scores_t), one_row_maps(scores_s)).item() == pytest.approx(90, rel=1e-6)


def test_a_probability_that_underflows_on_both_sides_is_zero_and_not_nan():
    scores = torch.tensor([[0.0, -1200.0], [0.0, 0.0]])
    assert log_of_softmax_kl(scores, scores).isnan()
    assert relation_kl(one_row_maps(scores), one_row_maps(scores)).item() == 0


def float64_errors(loss_of, teacher, student):
    """Relative errors of loss and gradients of `loss_of` against the materialised form in float64."""
    exact = tuple(x.detach().double().requires_grad_() for x in student)
    expected = materialised_relation_kl(tuple(x.double() for x in teacher), exact)
    wanted = torch.autograd.grad(expected, exact)
    loss = loss_of(teacher, student)
    found = torch.autograd.grad(loss, student)
    errors = [(f.double() - w).norm() / w.norm() for f, w in zip(found, wanted, strict=True)]
    return abs(loss.item() / expected.item() - 1), max(errors).item()


@pytest.mark.parametrize(("teacher_width", "width", "scale"), [(64, 16, 1.0), (64, 32, 2.0), (5, 3, 1.0)])
def test_in_float32_it_is_as_exact_as_float32_allows(teacher_width, width, scale):
    teacher, student = tokens((3, 4, 50, teacher_width), 1, scale), tokens((3, 4, 50, width), 2, scale)
    loss, gradients = float64_errors(relation_kl, teacher, tuple(x.requires_grad_() for x in student))
    assert loss <= 1e-6
    assert gradients <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_no_worse_than_the_materialised_form(dtype):
    teacher = tuple(x.to(dtype) for x in tokens((3, 4, 50, 64), 1))
    student = tuple(x.to(dtype).requires_grad_() for x in tokens((3, 4, 50, 16), 2))
    ours = float64_errors(relation_kl, teacher, student)
    theirs = float64_errors(materialised_relation_kl, teacher, student)
    assert ours[0] <= max(1.1 * theirs[0], 1e-6)
    assert ours[1] <= 1.1 * theirs[1]


def test_fp16_gradients_of_a_large_batch_do_not_vanish_before_the_loss_is_scaled():
    teacher, student = tokens((64, 4, 40, 8), 1), tokens((64, 4, 40, 8), 2)
    half = tuple(x.half().requires_grad_() for x in student)
    exact = tuple(x.detach().float().requires_grad_() for x in half)
    scale = 2.0**16
    (relation_kl(tuple(x.half() for x in teacher), half) * scale).backward()
    (relation_kl(tuple(x.half().float() for x in teacher), exact) * scale).backward()
    assert half[0].grad.dtype == torch.float16
    torch.testing.assert_close(half[0].grad.float(), exact[0].grad, rtol=5e-3, atol=5e-3 * exact[0].grad.abs().max())
