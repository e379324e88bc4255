"""How settings travel: to the stages of `cikd run`, from a parent run to its child, to a resumed run."""

import pytest

from cikd_cli.chain import check_resume, resolve_curriculum, stage_request
from cikd_cli.config import AliConfig
from cikd_cli.errors import CikdError
from cikd_cli.inheritance import inherited_settings
from cikd_cli.options import Request, RunOptions
from cikd_cli.runs import RunDir


def curriculum(flags=None, **options):
    return resolve_curriculum(Request("run", flags or {}, RunOptions(**options)))


def test_the_curriculum_uses_the_embedded_digits_unless_told_otherwise():
    assert {getattr(curriculum().config, name).data for name in ("finetune_teacher", "ali", "lm")} == {"digits"}
    assert curriculum(recipe="flowers").config.lm.data == "flowers"


def test_a_curriculum_flag_reaches_every_stage_that_has_the_knob():
    config = curriculum({"seed": 3, "lob": 2, "baseline": True}).config
    assert (config.finetune_teacher.seed, config.ali.seed, config.lm.seed) == (3, 3, 3)
    assert config.ali.lob == 2
    assert config.baseline is True


def test_the_teacher_flag_of_the_curriculum_is_for_the_teacher_stage_only():
    config = curriculum({"teacher": "deit_tiny_patch16_224"}).config
    assert config.finetune_teacher.teacher == "deit_tiny_patch16_224"
    assert config.ali.teacher is None


def test_set_reaches_into_one_stage_or_into_all():
    resolved = curriculum(set=("ali.epochs=5", "finetune-teacher.lr=0.5", "warmup=2"))
    config = resolved.config
    assert (config.ali.epochs, config.lm.epochs, config.finetune_teacher.lr) == (5, 8, 0.5)
    assert (config.ali.warmup, config.lm.warmup) == (2, 2)
    assert resolved.sources["ali.epochs"] == "--set"
    assert resolved.sources["lm.epochs"] == "recipe digits"


def test_a_flag_is_for_every_stage_and_gives_way_to_a_set_for_one():
    config = curriculum({"epochs": 3, "batch_size": 8}, set=("ali.epochs=5", "lm.batch_size=4")).config
    assert (config.finetune_teacher.epochs, config.ali.epochs, config.lm.epochs) == (3, 5, 3)
    assert (config.finetune_teacher.batch_size, config.ali.batch_size, config.lm.batch_size) == (8, 8, 4)


@pytest.mark.parametrize("text", ["alii.epochs=1", "epohcs=1", "ali.alpha=1"])
def test_a_set_value_for_no_stage_is_refused(text):
    with pytest.raises(CikdError):
        curriculum(set=(text,))


def test_stages_of_one_curriculum_cannot_see_different_data():
    with pytest.raises(CikdError, match=r"share fraction, but: finetune_teacher 1.0, ali 0.5"):
        curriculum(set=("ali.fraction=0.5",))


def test_the_request_of_a_stage_has_its_own_flags_and_what_the_caller_adds():
    request = Request(
        "run", {"lob": 2, "data": "mnist", "teacher": "scratch"}, RunOptions(set=("lm.alpha=2",), fresh=True)
    )
    share = stage_request(request, "lm", teacher="runs/teacher-001")
    assert share.flags == {"data": "mnist", "teacher": "runs/teacher-001"}
    assert (share.stage, share.options.set, share.options.fresh) == ("lm", ("lm.alpha=2",), False)


def test_a_child_inherits_data_student_and_normalisation(tmp_path):
    config = {"data": "digits", "image_size": 32, "student": "vit_pico", "lr": 0.1}
    record = {"model": {"mean": [0.1, 0.2, 0.3]}, "parents": []}
    run = RunDir.create(tmp_path, "ali", prefix="ali", name=None, record=record, config=config)
    assert inherited_settings(run) == {
        "data": "digits",
        "image_size": 32,
        "student": "vit_pico",
        "mean": (0.1, 0.2, 0.3),
    }


def test_resume_takes_epochs_and_hardware_and_refuses_the_rest():
    check_resume(Request("ali", {"epochs": 9}, RunOptions(resume="runs/ali-001", gpus="2", quiet=True)), AliConfig)
    with pytest.raises(CikdError, match=r"so --from, --recipe cannot be given"):
        check_resume(
            Request("ali", {"from_run": "x"}, RunOptions(resume="runs/ali-001", recipe="digits", save_every="1")),
            AliConfig,
        )
