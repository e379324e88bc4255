"""Decoupled distillation against its definition, in value, gradient and precision."""

import pytest
import reference
import torch
from reference import labels, slow
from torch import Tensor

from cikd_cli.methods.lm import decoupled_kd, warmup_weight


def logits(images: int, classes: int, seed: int, scale: float = 2.0) -> Tensor:
    return reference.seeded(images, classes, seed=seed, scale=scale)


def fast(student: Tensor, teacher: Tensor, targets: Tensor, **settings: object) -> list[float]:
    terms = decoupled_kd(student, teacher, targets, **settings)
    return [terms["tckd"].item(), terms["nckd"].item()]


@pytest.mark.parametrize(("images", "classes"), [(4, 10), (1, 3), (7, 102)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_both_terms_are_the_definition(images, classes, temperature):
    args = logits(images, classes, 1), logits(images, classes, 2), labels(images, classes)
    expected = slow(*args, temperature=temperature)
    terms = fast(*args, alpha=1, temperature=temperature, t_squared=False)
    assert terms == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_alpha_is_the_weight_of_the_non_target_term_alone_and_4_by_default():
    args = logits(4, 10, 1), logits(4, 10, 2), labels(4, 10)
    tckd, nckd = slow(*args)
    assert fast(*args) == pytest.approx([tckd, 4 * nckd], rel=1e-4)
    assert fast(*args, alpha=0.5) == pytest.approx([tckd, 0.5 * nckd], rel=1e-4)


@pytest.mark.parametrize(("t_squared", "factor"), [(True, 9.0), (False, 1.0)])
def test_t_squared_multiplies_both_terms_once_or_not_at_all(t_squared, factor):
    args = logits(4, 10, 1), logits(4, 10, 2), labels(4, 10)
    expected = [factor * term for term in slow(*args, temperature=3.0)]
    assert fast(*args, alpha=1, temperature=3.0, t_squared=t_squared) == pytest.approx(expected, rel=1e-4)


def test_t_squared_is_on_by_default():
    args = logits(4, 10, 1), logits(4, 10, 2), labels(4, 10)
    assert fast(*args, temperature=2.0) == fast(*args, temperature=2.0, t_squared=True)
    assert fast(*args, temperature=2.0) != fast(*args, temperature=2.0, t_squared=False)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_teacher_weighting_multiplies_by_the_teachers_mass_off_the_target(temperature):
    args = logits(4, 10, 1), logits(4, 10, 2), labels(4, 10)
    expected = slow(*args, temperature=temperature, weighted=True)
    settings = {"alpha": 1, "temperature": temperature, "t_squared": False, "nckd_weighting": "teacher"}
    assert fast(*args, **settings) == pytest.approx(expected, rel=1e-4)


def test_with_teacher_weighting_and_alpha_1_nothing_is_decoupled():
    student, teacher = logits(6, 10, 1, scale=1.0), logits(6, 10, 2, scale=6.0)
    expected, reverse = reference.softmax_kl(teacher, student), reference.softmax_kl(student, teacher)
    assert max(expected, reverse) > 1.5 * min(expected, reverse)  # so the direction is tested too
    total = sum(fast(student, teacher, labels(6, 10), alpha=1, nckd_weighting="teacher"))
    assert total == pytest.approx(expected, rel=1e-5)


def test_unweighted_is_the_default_and_stays_large_for_a_confident_teacher():
    student, teacher, targets = logits(4, 10, 1), logits(4, 10, 2), labels(4, 10)
    teacher[torch.arange(4), targets] = 15.0
    weighted = fast(student, teacher, targets, nckd_weighting="teacher")[1]
    assert fast(student, teacher, targets)[1] == fast(student, teacher, targets, nckd_weighting="unweighted")[1]
    assert fast(student, teacher, targets)[1] > 1000 * weighted


def test_both_terms_are_teacher_over_student():
    student, teacher, targets = logits(6, 10, 1, scale=1.0), logits(6, 10, 2, scale=6.0), labels(6, 10)
    forward, reverse = slow(student, teacher, targets), slow(teacher, student, targets)
    assert all(max(pair) > 1.5 * min(pair) for pair in zip(forward, reverse, strict=True))
    assert fast(student, teacher, targets, alpha=1) == pytest.approx(forward, rel=1e-4)


def test_two_classes_leave_nothing_to_the_non_target_term():
    student, teacher = logits(5, 2, 1).requires_grad_(), logits(5, 2, 2)
    terms = decoupled_kd(student, teacher, labels(5, 2))
    (gradient,) = torch.autograd.grad(terms["nckd"], student, retain_graph=True)
    assert terms["nckd"].item() == 0
    assert gradient.abs().max() == 0
    assert terms["tckd"].item() == pytest.approx(slow(student.detach(), teacher, labels(5, 2))[0], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    args = logits(4, 10, 1).to(dtype), logits(4, 10, 2).to(dtype), labels(4, 10)
    assert decoupled_kd(*args)["tckd"].dtype == decoupled_kd(*args)["nckd"].dtype == torch.float32
    assert fast(*args, alpha=1) == pytest.approx(slow(*args), rel=1e-4)


def test_autocast_does_not_reach_inside():
    args = logits(4, 10, 1), logits(4, 10, 2), labels(4, 10)
    alone = fast(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(*args) == alone


@pytest.mark.parametrize("size", [50.0, 600.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_large_logits_give_the_definitions_value_and_finite_gradients(size, sign):
    generator = torch.Generator().manual_seed(1)
    student = size * (2 * torch.rand(4, 6, generator=generator) - 1)
    teacher = size * (2 * torch.rand(4, 6, generator=generator) - 1)
    targets = torch.tensor([0, 1, 2, 3])
    student[0, 0], teacher[0, 0] = sign * size, sign * size
    student[1, 1], teacher[1, 1] = sign * size, -sign * size
    assert fast(student, teacher, targets, alpha=1) == pytest.approx(slow(student, teacher, targets), rel=1e-4)
    leaf = student.requires_grad_()
    (gradient,) = torch.autograd.grad(sum(decoupled_kd(leaf, teacher, targets).values()), leaf)
    assert gradient.isfinite().all()


def test_the_target_is_excluded_exactly_however_high_it_is():
    # a subtracted 1000 would leave a target of 600 among classes of -600 as the highest class
    student, teacher = logits(3, 5, 1) - 600, logits(3, 5, 2) - 600
    targets = torch.tensor([0, 2, 4])
    calm = fast(student, teacher, targets)[1]
    student[torch.arange(3), targets] = teacher[torch.arange(3), targets] = 600.0
    assert fast(student, teacher, targets)[1] == calm
    assert calm > 0.1


def test_two_confident_networks_keep_their_digits():
    # 1 - p is 1e-9 here, which float32 loses when log p is computed as a difference of logits
    student, teacher = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([[22.0, 0.0, 0.0]])
    expected = slow(student, teacher, torch.tensor([0]))[0]
    assert 0 < expected < 1e-8
    assert fast(student, teacher, torch.tensor([0]))[0] == pytest.approx(expected, rel=1e-3)


def test_the_gradients_are_the_closed_forms():
    student, teacher, targets = logits(4, 6, 1).double().requires_grad_(), logits(4, 6, 2).double(), labels(4, 6)
    terms = decoupled_kd(student, teacher, targets, alpha=1)
    (tckd,) = torch.autograd.grad(terms["tckd"], student, retain_graph=True)
    (nckd,) = torch.autograd.grad(terms["nckd"], student)
    p_s, p_t = student.detach().softmax(1), teacher.softmax(1)
    for row, y in enumerate(targets.tolist()):
        error = p_s[row, y] - p_t[row, y]
        assert tckd[row, y].item() == pytest.approx(error.item() / 4)
        assert nckd[row, y].item() == 0
        for j in set(range(6)) - {y}:
            hat_s, hat_t = p_s[row, j] / (1 - p_s[row, y]), p_t[row, j] / (1 - p_t[row, y])
            assert tckd[row, j].item() == pytest.approx((-error * hat_s).item() / 4)
            assert nckd[row, j].item() == pytest.approx((hat_s - hat_t).item() / 4)


@pytest.mark.parametrize("weighting", ["unweighted", "teacher"])
def test_numerical_gradients_agree_in_float64(weighting):
    student, teacher, targets = logits(3, 5, 1).double().requires_grad_(), logits(3, 5, 2).double(), labels(3, 5)

    def loss(student: Tensor) -> Tensor:
        return sum(decoupled_kd(student, teacher, targets, temperature=2.0, nckd_weighting=weighting).values())

    assert torch.autograd.gradcheck(loss, (student,))


def test_the_teachers_logits_get_no_gradient():
    student, teacher = logits(3, 5, 1).requires_grad_(), logits(3, 5, 2).requires_grad_()
    sum(decoupled_kd(student, teacher, labels(3, 5), nckd_weighting="teacher").values()).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_the_warm_up_counts_whole_epochs_from_zero():
    assert [warmup_weight(epoch, 5) for epoch in range(8)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1])


def test_without_a_warm_up_the_first_epoch_distils_in_full():
    assert warmup_weight(0, 0) == 1
