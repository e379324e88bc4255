"""The KL of relation maps against its definition, one row at a time in float64 (eq. 2-4)."""

import math
import re

import pytest
import reference
import torch
from torch import Tensor

from cikd_cli.errors import CikdError
from cikd_cli.kernels import relation_kl as kernel
from cikd_cli.kernels.relation_kl import CHUNK, LARGE, SMALL, materialised_relation_kl, relation_kl, why_not_fused


def tokens(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    return reference.seeded(*shape, seed=seed, scale=scale), reference.seeded(*shape, seed=seed + 100, scale=scale)


def one_row_maps(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(q, k) whose logits q k' / sqrt(d) are exactly `scores` (N, N): k is sqrt(d) x the identity."""
    size = len(scores)
    return scores[None, None], math.sqrt(size) * torch.eye(size)[None, None]


def log_of_softmax_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """The released form, on scores (N, N)."""
    t, s = teacher.softmax(-1), student.softmax(-1)
    return (t * (t.log() - s.log())).sum(-1).mean()


@pytest.mark.parametrize(
    ("images", "heads", "count", "teacher_width", "student_width"),
    [(2, 3, 5, 8, 8), (1, 3, 5, 8, 4), (2, 1, 4, 5, 3), (3, 2, 1, 5, 7), (1, 1, 9, 1, 5)],
)
def test_it_is_the_definition_for_any_sizes_and_head_widths(images, heads, count, teacher_width, student_width):
    teacher = tokens((images, heads, count, teacher_width), 1)
    student = tokens((images, heads, count, student_width), 2)
    expected = reference.relation_kl(teacher, student)
    assert relation_kl(teacher, student).item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_values_with_themselves_are_the_definition():
    teacher, student = reference.seeded(2, 3, 6, 5, seed=1), reference.seeded(2, 3, 6, 4, seed=2)
    expected = reference.relation_kl((teacher, teacher), (student, student))
    assert relation_kl((teacher, teacher), (student, student)).item() == pytest.approx(expected, rel=1e-5)


def test_the_result_is_a_float32_scalar():
    loss = relation_kl(tokens((1, 1, 3, 4), 1), tokens((1, 1, 3, 4), 2))
    assert (loss.dtype, loss.shape) == (torch.float32, ())


def test_each_network_is_scaled_by_its_own_head_width():
    # the same scores through heads of 4 and of 16 channels, so nothing is left to learn
    teacher = tokens((2, 2, 6, 4), 1)
    student = tuple(torch.cat([x, torch.zeros(2, 2, 6, 12)], dim=-1) for x in teacher)
    assert relation_kl(teacher, (2 * student[0], student[1])).item() == pytest.approx(0, abs=1e-6)
    assert relation_kl(teacher, (student[0], student[1])).item() > 0.01


def test_it_is_teacher_over_student_and_not_the_reverse():
    teacher, student = tokens((2, 4, 17, 8), 1, scale=3.0), tokens((2, 4, 17, 8), 2)
    expected, reverse = reference.relation_kl(teacher, student), reference.relation_kl(student, teacher)
    assert max(expected, reverse) > 1.5 * min(expected, reverse)
    assert relation_kl(teacher, student).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dim", [0, 1], ids=["images", "heads"])
def test_more_of_the_same_images_or_heads_does_not_change_it(dim):
    teacher, student = tokens((2, 3, 5, 4), 1), tokens((2, 3, 5, 4), 2)
    twice = relation_kl(
        tuple(torch.cat([x, x], dim=dim) for x in teacher), tuple(torch.cat([x, x], dim=dim) for x in student)
    )
    torch.testing.assert_close(twice, relation_kl(teacher, student))


def test_keys_are_summed_and_queries_averaged():
    # every query row is the same pair of distributions over 4 keys, so the loss is the KL of one row
    row_t, row_s = torch.tensor([3.0, 0.0, -1.0, 0.5]), torch.tensor([0.0, 1.0, 0.0, 0.0])
    loss = relation_kl(one_row_maps(row_t.expand(4, 4)), one_row_maps(row_s.expand(4, 4)))
    expected = reference.kl(reference.log_softmax(row_t.tolist()), reference.log_softmax(row_s.tolist()))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_equal_maps_have_loss_and_gradient_zero():
    teacher = tokens((2, 2, 6, 5), 1)
    student = tuple(x.clone().requires_grad_() for x in teacher)
    loss = relation_kl(teacher, student)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert max(x.grad.abs().max().item() for x in student) < 1e-7


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


def test_the_gradient_of_qk_is_the_difference_of_the_maps():
    teacher = tuple(x.double() for x in tokens((2, 3, 5, 4), 1))
    q, k = (x.double().requires_grad_() for x in tokens((2, 3, 5, 6), 2))
    relation_kl(teacher, (q, k)).backward()
    difference = (
        reference.relation_log_map(q.detach(), k.detach()).exp() - reference.relation_log_map(*teacher).exp()
    ) / (2 * 3 * 5)
    torch.testing.assert_close(q.grad, difference @ k.detach() / math.sqrt(6))
    torch.testing.assert_close(k.grad, difference.transpose(-2, -1) @ q.detach() / math.sqrt(6))


def test_values_get_the_gradient_from_both_sides():
    teacher = reference.seeded(2, 3, 5, 4, seed=1).double()
    v = reference.seeded(2, 3, 5, 7, seed=2).double().requires_grad_()
    relation_kl((teacher, teacher), (v, v)).backward()
    fixed = v.detach()
    g = (reference.relation_log_map(fixed, fixed).exp() - reference.relation_log_map(teacher, teacher).exp()) / (
        2 * 3 * 5
    )
    torch.testing.assert_close(v.grad, (g + g.transpose(-2, -1)) @ fixed / math.sqrt(7))


def test_numerical_gradients_agree_in_float64():
    teacher = tuple(x.double() for x in tokens((1, 2, 4, 3), 1))
    q, k, v = (reference.seeded(1, 2, 4, 5, seed=seed).double().requires_grad_() for seed in (2, 3, 4))
    assert torch.autograd.gradcheck(lambda q, k: relation_kl(teacher, (q, k)), (q, k))
    assert torch.autograd.gradcheck(lambda v: relation_kl(teacher, (v, v)), (v,))


def test_the_teacher_gets_no_gradient():
    teacher = tuple(x.requires_grad_() for x in tokens((1, 2, 4, 3), 1))
    student = tuple(x.requires_grad_() for x in tokens((1, 2, 4, 3), 2))
    relation_kl(teacher, student).backward()
    assert [x.grad is None for x in teacher + student] == [True, True, False, False]


@pytest.mark.parametrize(("heads", "count"), [(4, 5), (3, 6)])
def test_other_heads_or_tokens_are_refused(heads, count):
    with pytest.raises(CikdError, match=f"3 heads and 5 tokens, the student's {heads} heads and {count} tokens"):
        relation_kl(tokens((1, 3, 5, 4), 1), tokens((1, heads, count, 4), 2))


def test_another_batch_is_refused_and_not_broadcast():
    with pytest.raises(CikdError):
        relation_kl(tokens((1, 3, 5, 4), 1), tokens((2, 3, 5, 4), 2))


@pytest.mark.parametrize("chunk", [1, 40, 100, 10**9])
def test_it_does_not_matter_how_many_images_are_done_at_a_time(chunk, monkeypatch):
    teacher, student = tokens((5, 2, 4, 3), 1), tuple(x.requires_grad_() for x in tokens((5, 2, 4, 6), 2))
    expected = materialised_relation_kl(teacher, student)
    gradients = torch.autograd.grad(expected, student)
    monkeypatch.setitem(CHUNK, "cpu", chunk)
    loss = relation_kl(teacher, student)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for found, wanted in zip(torch.autograd.grad(loss, student), gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


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


def test_no_map_is_kept_for_the_backward_pass():
    saved = []
    teacher, student = tokens((4, 3, 20, 8), 1), tuple(x.requires_grad_() for x in tokens((4, 3, 20, 8), 2))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        relation_kl(teacher, student)
    assert {tuple(x.shape) for x in saved} == {(4, 3, 20, 8)}


def test_a_second_derivative_is_refused():
    student = tuple(x.requires_grad_() for x in tokens((1, 2, 4, 3), 2))
    loss = relation_kl(tokens((1, 2, 4, 3), 1), student)
    with pytest.raises(CikdError, match="once"):
        torch.autograd.grad(loss, student, create_graph=True)


def test_a_student_without_gradient_gets_the_loss_alone():
    teacher, student = tokens((2, 2, 4, 3), 1), tokens((2, 2, 4, 3), 2)
    loss = relation_kl(teacher, student)
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(reference.relation_kl(teacher, student), rel=1e-5)


def test_fp16_gradients_of_a_large_batch_do_not_vanish_before_the_loss_is_scaled():
    teacher, student = tokens((64, 4, 40, 8), 1), tokens((64, 4, 40, 8), 2)
    half = tuple(x.half().requires_grad_() for x in student)
    exact = tuple(x.detach().float().requires_grad_() for x in half)
    scale = 2.0**16
    (relation_kl(tuple(x.half() for x in teacher), half) * scale).backward()
    (relation_kl(tuple(x.half().float() for x in teacher), exact) * scale).backward()
    assert half[0].grad.dtype == torch.float16
    torch.testing.assert_close(half[0].grad.float(), exact[0].grad, rtol=5e-3, atol=5e-3 * exact[0].grad.abs().max())


@pytest.mark.parametrize(
    ("device", "dtype", "width", "reason"),
    [
        ("cpu", torch.bfloat16, 64, "no kernel for cpu"),
        ("cuda", torch.float32, 64, "tensor cores"),
        ("cuda", torch.bfloat16, 256, "wider than 128"),
    ],
)
def test_where_the_fused_form_does_not_serve_it_is_said_why(device, dtype, width, reason, monkeypatch):
    monkeypatch.setattr("cikd_cli.kernels.relation_kl_cuda.available", lambda: True)
    assert re.search(reason, why_not_fused(torch.device(device), dtype, width=width))
