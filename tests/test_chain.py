"""How settings travel: to the stages of `cikd run`, from a parent run to its child, to a resumed run."""

import pytest
from claimed import whole

from cikd_cli.errors import CikdError
from cikd_cli.runs.chain import check_resume, resolve_curriculum, stage_request
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.inheritance import inherited_settings
from cikd_cli.settings.knob import Role, knobs_with
from cikd_cli.settings.methods import AliConfig, FinetuneTeacherConfig
from cikd_cli.settings.names import recipe_names
from cikd_cli.settings.request import Request, RunOptions


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
    run = RunDir.create(tmp_path, "ali", prefix="ali", name=None, record=whole(**record), config=config)
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


# ---- what a later stage would refuse is refused before the first ----

SHARED = sorted(set(AliConfig.model_fields) & set(FinetuneTeacherConfig.model_fields))
OTHER = {
    "data": "mnist",
    "data_root": "elsewhere",
    "download": "true",
    "fraction": "0.5",
    "val": "0.2",
    "image_size": "64",
    "skip_unreadable": "true",
    "mean": "0.4,0.4,0.4",
    "std": "0.4,0.4,0.4",
    "split_seed": "3",
    "decode_size": "8",
    "cache_mb": "1",
    "teacher": "runs/teacher-007",
    "precision": "bf16",
    "compile": "false",
    "betas": "0.8,0.8",
    "crop_scale": "0.9,1.0",
    "interpolation": "bilinear",
    "augment": "none",
    "jitter": "0.1,0.1,0.1",
}
HANDED_DOWN = {*knobs_with(AliConfig, Role.IMAGES | Role.INPUT), "teacher"} - set(knobs_with(AliConfig, Role.PLACE))


@pytest.mark.parametrize("stage", ["ali", "lm"])
@pytest.mark.parametrize("key", SHARED)
def test_another_value_for_a_later_stage_is_refused_exactly_where_the_stage_itself_would_refuse_it(key, stage):
    text = f"{stage}.{key}={OTHER.get(key, '0.5' if key in ('ema', 'flip', 'layer_decay') else '2')}"
    if key in HANDED_DOWN:
        with pytest.raises(CikdError, match=key):
            curriculum(set=(text,))
    else:
        assert curriculum(set=(text,)).sources[f"{stage}.{key}"] == "--set"


@pytest.mark.parametrize("stage", ["ali", "lm"])
@pytest.mark.parametrize("key", knobs_with(AliConfig, Role.STUDENT))
def test_a_student_that_differs_between_stages_is_refused(key, stage):
    with pytest.raises(CikdError, match="share student"):
        curriculum(set=(f"{stage}.{key}={'vit_pico' if key == 'student' else 24}",))


@pytest.mark.parametrize("name", recipe_names())
def test_the_stages_of_a_recipe_agree_with_each_other(name):
    assert curriculum(recipe=name).recipe == name


def test_the_same_value_in_another_spelling_is_no_difference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert curriculum({"data": str(tmp_path / "photos")}, set=("ali.data=./photos", "lm.decode_size=512"))


def test_where_the_data_lie_is_handed_down_as_the_stages_will():
    config = curriculum(set=("finetune_teacher.data_root=there", "ali.skip_unreadable=true")).config
    assert (config.finetune_teacher.data_root, config.ali.data_root, config.lm.data_root) == ("there",) * 3
    assert (config.ali.skip_unreadable, config.lm.skip_unreadable) == (True, True)


def test_set_teacher_without_a_stage_is_for_the_teacher_stage_as_the_flag_is():
    config = curriculum(set=("teacher=deit_tiny_patch16_224",)).config
    assert config.finetune_teacher.teacher == "deit_tiny_patch16_224"
    assert (config.ali.teacher, config.lm.teacher) == (None, None)


@pytest.mark.parametrize("text", ["ali.teacher=runs/t", "lm.teacher=runs/t", "lm.from_run=runs/a"])
def test_a_stage_of_a_curriculum_cannot_be_given_other_parents(text):
    with pytest.raises(CikdError, match="it has made, not"):
        curriculum(set=(text,))


def test_a_config_file_for_all_stages_cannot_name_a_teacher_for_the_later_ones(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[common]\nteacher = "scratch"\n')
    with pytest.raises(CikdError, match="it has made, not teacher scratch"):
        curriculum(config=str(file))
    file.write_text('[finetune-teacher]\nteacher = "scratch"\n')
    assert curriculum(config=str(file)).config.finetune_teacher.teacher == "scratch"
