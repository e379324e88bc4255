"""The reference step does the work of the tool's: the same losses, the same gradients."""

import numpy as np
import pytest
import torch
from bench_case import CPU, case

from cikd_cli.bench.contest import step_contest
from cikd_cli.bench.networks import build_job, build_rival
from cikd_cli.bench.reference import load_reference
from cikd_cli.bench.work import KnownLogits
from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.methods import Moment
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.spec import HALF


def test_the_cached_step_never_asks_the_teacher(monkeypatch):
    entrants = step_contest(case(precision="fp32", batch_size=4), "lm", CPU).entrants
    asked = []
    logits = FrozenTeacher.logits
    monkeypatch.setattr(FrozenTeacher, "logits", lambda self, images: (asked.append(1), logits(self, images))[1])
    entrants["cached"]()
    entrants["cached"]()
    assert asked == []
    entrants["tool"]()
    assert asked == [1]


def batch(images=5):
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (2, images, 3, 32, 32), generator=generator, dtype=torch.uint8)
    index = torch.arange(images)
    return Batch(views[0], index % 7, views[1], index)


@pytest.mark.parametrize("lob", [1, 2, 3])
def test_the_references_ali_loss_is_the_tools(lob):
    sizes, shown = case(precision="fp32").but(lob=lob), batch()
    own = sum(build_job(sizes, "ali", CPU).method(shown, Moment(9)).values()).item()
    images, clean = (normalise(x, HALF, HALF) for x in (shown.images, shown.teacher_images))
    theirs = sum(load_reference().ali_terms(*build_rival(sizes, "ali"), images, clean, lob=lob))
    assert own > 0
    assert theirs.item() == pytest.approx(own, rel=1e-5)


def test_the_references_lm_loss_is_the_tools():
    shown = batch()
    own = build_job(case(precision="fp32"), "lm", CPU).method(shown, Moment(9))
    theirs = load_reference().lm_terms(*build_rival(case(), "lm"), normalise(shown.images, HALF, HALF), shown.targets)
    expected = [own["ce"].item(), (own["tckd"] + own["nckd"]).item()]
    assert [term.item() for term in theirs] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", ["ali", "lm"])
def test_the_references_gradients_are_the_tools(stage):
    shown, rival = batch(), load_reference()
    method = build_job(case(precision="fp32"), stage, CPU).method
    student, teacher = build_rival(case(), stage)
    images = normalise(shown.images, HALF, HALF)
    if stage == "ali":
        theirs = rival.ali_terms(student, teacher, images, normalise(shown.teacher_images, HALF, HALF), lob=2)
    else:
        theirs = rival.lm_terms(student, teacher, images, shown.targets)
    sum(theirs).backward()
    sum(method(shown, Moment(9)).values()).backward()
    for (name, own), other in zip(method.student.named_parameters(), student.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None), name
        if own.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_known_logits_give_the_loss_of_the_teacher_that_made_them():
    shown = batch()
    method = build_job(case(precision="fp32"), "lm", CPU).method
    logits = method.teacher.logits(normalise(shown.images, HALF, HALF))
    asked = {name: term.item() for name, term in method(shown, Moment(9)).items()}
    method.teacher = KnownLogits(logits)
    assert {name: term.item() for name, term in method(shown, Moment(9)).items()} == asked


def test_a_reference_step_reads_three_numbers_back_and_learns():
    rival, shown = load_reference(), batch()
    student, teacher = build_rival(case(), "lm")
    step = rival.Step(
        lambda images, targets: rival.lm_terms(student, teacher, images, targets),
        [{"params": list(student.parameters()), "lr_scale": 1.0}],
        betas=(0.9, 0.999),
        dtype=torch.float32,
        device=CPU,
    )
    told = [step(normalise(shown.images, HALF, HALF), shown.targets, lr=1e-2) for _ in range(5)]
    assert all(loss == pytest.approx(first + second, rel=1e-5) for loss, first, second in told)
    assert told[-1][0] < told[0][0]


def test_reference_views_are_float_batches_of_one_size():
    rival = load_reference()
    pixels = list(np.random.default_rng(0).integers(0, 256, (3, 10, 14, 3), dtype=np.uint8))
    student, teacher = rival.collate(rival.AliViews(8), pixels)
    for views in (student, teacher, rival.collate(rival.LmViews(8), pixels)):
        assert views.shape == (3, 3, 8, 8)
        assert views.dtype == torch.float32
        assert views.abs().max() <= 1
    assert not torch.equal(student, teacher)
