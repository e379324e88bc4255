"""The KL of relation maps against its definition, one row at a time in float64 (eq. 2-4)."""

import math
import re

import pytest
import reference
import torch
from reference import one_row_maps, tokens

from cikd_cli.errors import CikdError
from cikd_cli.kernels.relation_kl import CHUNK, materialised_relation_kl, relation_kl, why_not_fused


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
