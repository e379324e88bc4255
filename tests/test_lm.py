"""The objective of stage 2 (eq. 7-14)."""

import inspect

import pytest
import reference
import torch
from reference import labels, slow

from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.methods import Moment
from cikd_cli.methods.lm import LogitMimicking
from cikd_cli.models import create_student
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.teachers import create_scratch_teacher

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def method(**settings: object) -> LogitMimicking:
    torch.manual_seed(0)
    student = create_student(
        "custom", num_classes=5, image_size=16, patch_size=8, end_heads=4, width=16, depth=3, heads=2, drop_path=0.0
    )
    teacher = create_scratch_teacher(num_classes=5, image_size=16, patch_size=8, width=24, depth=2, heads=4)
    torch.nn.init.normal_(teacher.head.weight)
    frozen = FrozenTeacher(teacher, device=torch.device("cpu"), dtype=torch.float32)
    return LogitMimicking(student, frozen, mean=MEAN, std=STD, **settings)


def batch(images: int = 4) -> Batch:
    pixels = torch.randint(0, 256, (images, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Batch(pixels, labels(images, 5), None, torch.arange(images))


def test_the_defaults_are_those_of_the_recipe():
    defaults = {name: p.default for name, p in inspect.signature(LogitMimicking).parameters.items()}
    assert defaults["alpha"] == 4
    assert defaults["w_tckd"] == 1
    assert defaults["temperature"] == 1
    assert defaults["nckd_weighting"] == "unweighted"
    assert defaults["kd_t2"] is True
    assert defaults["kd_warmup_epochs"] == 5
    assert defaults["smoothing"] == 0.1


@pytest.mark.parametrize("epoch", [1, 3, 9])
def test_the_objective_is_cross_entropy_plus_the_warmed_up_terms_on_one_and_the_same_image(epoch):
    lm = method(w_tckd=0.5, alpha=3.0, temperature=2.0)
    images = normalise(batch().images, MEAN, STD)
    with torch.no_grad():
        student, teacher = lm.student(images), lm.teacher.network(images)
    tckd, nckd = slow(student, teacher, batch().targets, temperature=2.0)
    weight = min(epoch / 5, 1)
    terms = {name: term.item() for name, term in lm(batch(), Moment(epoch)).items()}
    assert terms == pytest.approx(
        {
            "ce": reference.smoothed_cross_entropy(student, batch().targets, 0.1),
            "tckd": weight * 4 * 0.5 * tckd,
            "nckd": weight * 4 * 3.0 * nckd,
        },
        rel=1e-3,
    )


def test_the_first_epoch_distils_nothing_and_never_runs_the_teacher():
    lm = method()
    lm.teacher.network.register_forward_pre_hook(lambda *_: pytest.fail("the teacher was run"))
    terms = lm(batch(), Moment(0))
    assert set(terms) == {"ce", "tckd", "nckd"}
    assert terms["tckd"].item() == terms["nckd"].item() == 0
    sum(terms.values()).backward()


def test_every_student_parameter_that_trains_gets_a_gradient():
    lm = method()
    sum(lm(batch(), Moment(3)).values()).backward()
    assert [name for name, p in lm.student.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_terms_are_float32_under_autocast():
    lm = method()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {term.dtype for term in lm(batch(), Moment(3)).values()} == {torch.float32}
