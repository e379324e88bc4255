"""`cikd run`: all stages at once, what is missing, and what is refused before the first one trains."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from cikd_cli.runs import chain
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.knob import Role, knobs_with
from cikd_cli.settings.methods import AliConfig, FinetuneTeacherConfig, LmConfig
from cikd_cli.settings.recipes import resolve
from cikd_cli.settings.request import Request, RunOptions
from cikd_cli.settings.stages import STAGES
from cikd_cli.stages import curriculum


def test_run_does_everything_and_takes_up_what_is_missing(cikd, photos, recipe):
    words = ("run", "--data", photos, "--recipe", recipe, "--baseline", "--json")
    first = json.loads(cikd(*words).stdout)
    assert (first["teacher"], first["ali"], first["lm"]) == ("runs/teacher-001", "runs/ali-001", "runs/lm-001")
    assert RunDir.open("runs/lm-002").config()["epochs"] == 6
    assert Path("runs/lm-001/report.html").is_file()
    (compared,) = Path("runs/lm-001/analysis").glob("mad-lm-001-teacher-001-lm-002-*.json")
    looked_at = json.loads(compared.read_text())["runs"]
    assert [entry["run"] for entry in looked_at] == ["runs/lm-001", "runs/teacher-001", "runs/lm-002"]
    made = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.safetensors")}
    assert json.loads(cikd(*words).stdout)["lm"] == "runs/lm-001"
    assert json.loads(cikd("run", "--data", photos, "--recipe", recipe, "--json").stdout)["lm"] == "runs/lm-001"
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.safetensors")} == made


def test_the_baseline_is_the_same_student_with_labels_only():
    request = Request("run", {"baseline": True}, RunOptions())
    config = chain.resolve_curriculum(request).config
    record = SimpleNamespace(data=SimpleNamespace(train=1437))

    def made(stage, its):
        gives = STAGES[stage].gives.__contains__
        return SimpleNamespace(path=f"runs/{stage}", record=record, config=its.model_dump, gives=gives)

    runs = {"teacher": made("finetune-teacher", config.finetune_teacher)}
    runs |= {"ali": made("ali", config.ali), "lm": made("lm", config.lm)}
    step = curriculum._step("baseline", STAGES["lm"], config, runs, request)
    baseline = resolve(LmConfig, "lm", step.flags | {"data": "digits"}, options=step.options).config.model_dump()
    student = config.lm.model_dump()
    differing = {key for key in student if student[key] != baseline[key]}
    assert differing == {"epochs", "distill", "teacher"}
    assert baseline["epochs"] == 32  # 12 epochs of 44 steps, 8 of 22, in epochs of 22


def test_the_baseline_takes_the_fewest_epochs_with_as_many_steps_as_ali_and_lm_together(cikd, photos, recipe):
    words = ("run", "--data", photos, "--recipe", recipe, "--baseline", "--set", "ali.batch_size=4", "--json")
    words += ("--set", "lm.batch_size=7")
    steps = {"finetune-teacher": 9, "ali": 21, "lm": 12, "baseline": 36}  # 8 epochs would be 32
    told = json.loads(cikd(*words, "--dry-run").stdout)["stages"]
    assert {name: cost["steps"] for name, cost in told.items()} == steps
    runs = json.loads(cikd(*words).stdout)
    made = {name: RunDir.open(runs[name]).metrics()[-1]["step"] for name in ("ali", "lm", "baseline")}
    assert made == {"ali": 21, "lm": 12, "baseline": 36}
    assert json.loads(cikd(*words).stdout)["baseline"] == runs["baseline"]
    other = json.loads(cikd(*words, "--set", "ali.batch_size=8").stdout)["baseline"]
    assert RunDir.open(other).config()["epochs"] == 6  # fewer steps of ALI, so another baseline


@pytest.mark.parametrize("text", ["lm.student_width=16", "ali.student=vit_tiny"])
def test_run_refuses_stages_that_would_make_different_students(cikd, photos, recipe, text):
    assert "share student" in cikd("run", "--data", photos, "--recipe", recipe, "--set", text, code=2).output
    assert not Path("runs").exists()


def test_continue_refuses_settings_that_contradict_the_run_however_they_are_typed(cikd, teacher, recipe):
    words = ("ali", "--teacher", teacher, "--recipe", recipe, "--epochs", "1", "--name", "x", "--continue")
    cikd(*words)
    assert "finished; taken as it is" in cikd(*words, "--set", "lr=2e-3").output
    assert "begun with --lr 0.002, not 9" in cikd(*words, "--set", "lr=9", code=2).output
    other = (*words[:3], "--recipe", "digits", *words[5:])
    assert "begun with the recipe" in cikd(*other, code=2).output


def test_run_notices_what_is_wrong_with_a_later_stage_before_the_first_one_trains(cikd, photos, recipe):
    words = ("run", "--data", photos, "--recipe", recipe)
    assert "outside 1..3" in cikd(*words, "--lob", "9", code=2).output
    assert "larger than the 30" in cikd(*words, "--set", "lm.batch_size=64", code=2).output
    assert "do not divide" in cikd(*words, "--set", "student_heads=3", code=2).output
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ali.decode_size=8", "share decode_size, but: finetune_teacher 0, ali 8, lm 0"),
        ("lm.decode_size=8", "share decode_size"),
        ("ali.teacher=runs/other", "it has made, not teacher runs/other"),
        ("lm.from_run=runs/other", "it has made, not from_run runs/other"),
        ("ali.from_run=runs/none", "runs/none"),
        ("ali.qk=false,--set,ali.vv=false", "at least one kind of relation"),
        ("ali.pairs=1:9", "outside"),
        ("lm.precision=fp16", "fp16"),
        ("lm.teacher_cache=taken", "is not a folder"),
    ],
)
def test_whatever_a_later_stage_would_refuse_is_refused_before_the_first(cikd, photos, recipe, text, sentence):
    Path("taken").touch()
    words = ("run", "--data", photos, "--recipe", recipe, "--gpus", "cpu", "--set", *text.split(",--set,", 1)[:1])
    more = ("--set", text.split(",--set,", 1)[1]) if ",--set," in text else ()
    assert sentence in cikd(*words, *more, code=2).output
    assert not Path("runs").exists()


def test_a_stage_that_would_not_skip_what_the_teacher_skips_is_refused_before_the_first(cikd, photos, recipe, tmp_path):
    shutil.copytree(photos, "some")
    Path("some/train/bars/bad.png").write_bytes(b"no image")
    words = ("run", "--data", "some", "--recipe", recipe, "--set", "finetune_teacher.skip_unreadable=true")
    assert "bad.png" in cikd(*words, "--set", "ali.skip_unreadable=false", code=2).output
    assert not Path("runs").exists()
    assert json.loads(cikd(*words, "--dry-run", "--json").stdout)["status"] == "dry-run"


def test_every_other_knob_may_differ_between_the_stages_and_the_curriculum_ends(cikd, photos, recipe):
    other = {
        "data_root": "elsewhere", "skip_unreadable": "true", "cache_mb": "1", "epochs": "2", "batch_size": "6",
        "lr": "1e-3", "min_lr": "1e-5", "warmup": "0.5", "weight_decay": "0.01", "betas": "0.8,0.9",
        "layer_decay": "0.9", "accumulate": "2", "precision": "bf16", "ema": "0.5", "seed": "3", "eval_every": "2",
        "keep_every": "1", "crop_scale": "0.9,1.0", "interpolation": "bilinear", "flip": "0", "augment": "affine",
        "jitter": "0.1,0.1,0.1", "compile": "false", "download": "false",
    }  # fmt: skip
    shared = set(AliConfig.model_fields) & set(FinetuneTeacherConfig.model_fields)
    assert set(other) == shared - (
        {*knobs_with(AliConfig, Role.IMAGES | Role.INPUT), "teacher"} - set(knobs_with(AliConfig, Role.PLACE))
    )
    texts = [word for key, value in other.items() for word in ("--set", f"ali.{key}={value}")]
    made = json.loads(cikd("run", "--data", photos, "--recipe", recipe, *texts, "--json").stdout)
    config = RunDir.open(made["ali"]).config()
    assert (config["epochs"], config["betas"], config["keep_every"]) == (2, [0.8, 0.9], 1)
    assert RunDir.open(made["lm"]).config()["epochs"] == 3


def test_a_parent_that_is_set_for_all_stages_is_refused_and_not_passed_over(cikd, photos, recipe):
    words = ("run", "--data", photos, "--recipe", recipe, "--set", "from_run=runs/nonsense")
    assert "--set ali.from_run=runs/nonsense" in cikd(*words, code=2).stderr
