"""The commands end to end on a tiny folder of images: what they print, what they write, what they hand on."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.inheritance import DATA_KNOBS
from PIL import Image

from cikd_cli.models.weights import load_model
from cikd_cli.runs import chain
from cikd_cli.settings.configs import AliConfig, FinetuneTeacherConfig, LmConfig
from cikd_cli.settings.recipes import MAY_DIFFER, resolve
from cikd_cli.settings.request import Request, RunOptions
from cikd_cli.stages import curriculum

TRAINED = {
    "run.json", "config.toml", "metrics.jsonl", "model.safetensors", "log.txt", "checkpoints/last.safetensors",
    "held-out.txt", "trained-on.txt",
}  # fmt: skip


def files(run):
    return {str(path.relative_to(run)) for path in Path(run).rglob("*") if path.is_file()}


def test_every_command_writes_exactly_its_files(cikd, teacher, recipe):
    assert files(teacher) == TRAINED
    cikd("ali", "--teacher", teacher, "--recipe", recipe)
    assert files("runs/ali-001") == TRAINED
    cikd("lm", "--from", "runs/ali-001", "--recipe", recipe)
    assert files("runs/lm-001") == TRAINED
    cikd("eval", "runs/lm-001")
    evaluated = {"analysis/eval.json", "analysis/confusion.json", "analysis/confusion.png", "analysis/confusion.svg"}
    assert files("runs/lm-001") == TRAINED | evaluated | {"model_card.md"}
    cikd("mad", "runs/lm-001", "--set", "images=8")
    mad = {"analysis/mad.json", "analysis/mad.png", "analysis/mad.svg"}
    assert files("runs/lm-001") == TRAINED | evaluated | mad | {"model_card.md"}
    cikd("cka", "runs/lm-001", "--images", "8", "--batch-size", "4")
    cka = {"analysis/cka.json", "analysis/cka.png", "analysis/cka.svg"}
    assert files("runs/lm-001") == TRAINED | evaluated | mad | cka | {"model_card.md"}


def test_ali_without_a_teacher_takes_the_newest_finished_one_and_names_it(cikd, teacher, photos, recipe):
    said = cikd("ali", "--data", photos, "--recipe", recipe).output
    assert "runs/teacher" in said
    assert "the newest finished one" in said


def test_ali_without_any_teacher_says_which_command_makes_one(cikd, photos):
    said = cikd("ali", "--data", photos, code=2).output
    assert f"cikd finetune-teacher --data {photos}" in said


def test_ali_takes_a_folder_of_unlabelled_images_and_lm_goes_back_to_the_labels(
    cikd, teacher, photos, recipe, tmp_path
):
    loose = tmp_path / "loose"
    loose.mkdir()
    for number, path in enumerate(sorted(photos.rglob("train/*/*.png"))):
        (loose / f"{number}.png").write_bytes(path.read_bytes())
    cikd("ali", "--data", loose, "--teacher", teacher, "--recipe", recipe, "--epochs", "1")
    record = RunDir.open("runs/ali-001").record
    assert record["data"]["classes"] == 0
    cikd("lm", "--from", "runs/ali-001", "--recipe", recipe, "--epochs", "1")
    assert RunDir.open("runs/lm-001").record["data"]["name"] == str(photos)


def test_lm_refuses_what_contradicts_its_parent_and_names_both_values(cikd, teacher, recipe):
    cikd("ali", "--teacher", teacher, "--recipe", recipe, "--epochs", "1")
    said = cikd("lm", "--from", "runs/ali-001", "--recipe", recipe, "--image-size", "32", code=2).output
    assert "32" in said
    assert "16" in said


def test_lm_starts_from_the_trunk_of_ali_with_a_new_head(cikd, teacher, recipe):
    cikd("ali", "--teacher", teacher, "--recipe", recipe, "--epochs", "1")
    words = ("lm", "--from", "runs/ali-001", "--recipe", recipe, "--epochs", "1", "--set", "lr=1e-12")
    cikd(*words)
    before, _ = load_model(Path("runs/ali-001/model.safetensors"))
    after, spec = load_model(Path("runs/lm-001/model.safetensors"))
    torch.testing.assert_close(before.blocks[1].mlp.fc1.weight, after.blocks[1].mlp.fc1.weight, rtol=0, atol=1e-6)
    assert after.head.weight.shape == (3, 8)
    assert spec.classes == ("bars", "dots", "rows")


def test_lm_alone_and_labels_alone_need_no_ali_run(cikd, teacher, photos, recipe):
    cikd("lm", "--data", photos, "--recipe", recipe, "--epochs", "1")
    cikd("lm", "--data", photos, "--recipe", recipe, "--epochs", "1", "--no-distill")
    assert set(RunDir.open("runs/lm-001").metrics()[0]) >= {"ce", "tckd", "nckd"}
    assert "tckd" not in RunDir.open("runs/lm-002").metrics()[0]


def test_the_teacher_is_in_no_checkpoint(cikd, teacher, recipe):
    from safetensors import safe_open

    cikd("ali", "--teacher", teacher, "--recipe", recipe, "--epochs", "1")
    with safe_open("runs/ali-001/checkpoints/last.safetensors", framework="pt") as file:
        widths = {file.get_slice(key).get_shape()[-1] for key in file.keys() if "norm1.weight" in key}  # noqa: SIM118
    assert widths == {8}


def test_the_last_epoch_is_the_deliverable_and_val_keeps_the_best_one_beside_it(cikd, photos, recipe):
    words = ("finetune-teacher", "--data", photos, "--recipe", recipe, "--val", "0.2", "--set", "eval_every=1")
    cikd(*words)
    run = RunDir.open("runs/teacher-001")
    assert all("val_top1" in row and "test_top1" not in row for row in run.metrics())
    best, _ = load_model(run.path / "model-best.safetensors")
    assert run.record["result"]["best_val_top1"] == max(row["val_top1"] for row in run.metrics())
    assert best.head.weight.shape == (3, 16)


def test_json_prints_one_object_and_nothing_else(cikd, teacher, recipe):
    summary = json.loads(cikd("ali", "--teacher", teacher, "--recipe", recipe, "--json").stdout)
    assert summary["run"] == "runs/ali-001"
    assert summary["status"] == "done"
    assert summary["epochs"] == 3
    assert summary["images_per_second"] > 0
    assert summary["result"]["loss"] > 0


def test_a_dry_run_writes_nothing_and_says_what_it_would_cost(cikd, teacher, recipe):
    said = cikd("ali", "--teacher", teacher, "--recipe", recipe, "--dry-run").output
    assert "two steps went well" in said
    assert not Path("runs/ali-001").exists()


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
    images = {"data": {"train": 1437}}
    runs = {
        "teacher": SimpleNamespace(path="runs/teacher-001"),
        "ali": SimpleNamespace(record=images, config=config.ali.model_dump),
        "lm": SimpleNamespace(record=images, config=config.lm.model_dump),
    }
    step = curriculum._step("baseline", config, runs, request)
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
    assert set(other) == shared - ({*DATA_KNOBS, "teacher"} - MAY_DIFFER)
    texts = [word for key, value in other.items() for word in ("--set", f"ali.{key}={value}")]
    made = json.loads(cikd("run", "--data", photos, "--recipe", recipe, *texts, "--json").stdout)
    config = RunDir.open(made["ali"]).config()
    assert (config["epochs"], config["betas"], config["keep_every"]) == (2, [0.8, 0.9], 1)
    assert RunDir.open(made["lm"]).config()["epochs"] == 3


def test_ali_from_a_student_made_for_other_patches_is_refused(cikd, teacher, photos, recipe):
    cikd("ali", "--teacher", teacher, "--recipe", recipe, "--epochs", "1", "--quiet")
    words = ("finetune-teacher", "--data", photos, "--recipe", recipe, "--set", "teacher_patch=8", "--name", "coarse")
    cikd(*words, "--quiet")
    said = cikd("ali", "--teacher", "runs/coarse", "--from", "runs/ali-001", "--recipe", recipe, code=2).output
    assert "patch_size 4" in said


def test_ali_from_a_run_alone_takes_its_teacher_and_its_student(cikd, teacher, recipe):
    cikd("lm", "--teacher", teacher, "--recipe", recipe, "--epochs", "1", "--quiet")
    cikd("ali", "--from", "runs/lm-001", "--epochs", "1", "--quiet")
    assert [entry["stage"] for entry in RunDir.open("runs/ali-001").record["parents"]] == ["finetune-teacher", "lm"]
    said = cikd("ali", "--from", "runs/lm-001", "--student", "vit_tiny", code=2).output
    assert "vit_tiny" in said


def test_runs_shows_the_tree(cikd, teacher, recipe):
    cikd("ali", "--teacher", teacher, "--recipe", recipe, "--epochs", "1")
    said = cikd("runs").output
    assert said.index("teacher") < said.index("ali-001")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lob", "0"], "outside 1..3"),
        (["--pairs", "1:9"], "outside"),
        (["--image-size", "18"], "image_size"),
        (["--teacher", "runs/none"], "no run"),
    ],
)
def test_ali_refuses(cikd, teacher, recipe, words, sentence):
    said = cikd("ali", "--teacher", teacher, "--recipe", recipe, *words, code=2).output
    assert sentence in said
    assert not Path("runs/ali-001").exists()


def test_a_teacher_of_other_classes_names_the_command_that_makes_the_right_one(cikd, teacher, recipe):
    said = cikd("lm", "--teacher", teacher, "--recipe", recipe, "--data", "digits", code=2).output
    assert "cikd finetune-teacher --data digits" in said


def test_a_loss_that_is_not_finite_stops_with_epoch_and_step_and_keeps_the_checkpoint(cikd, photos, recipe):
    words = ("finetune-teacher", "--data", photos, "--recipe", recipe, "--lr", "1e30", "--set", "warmup=0")
    said = cikd(*words, code=1).output
    assert "epoch 1, step" in said
    assert RunDir.open("runs/teacher-001", finished=False).record["status"] == "failed"


def test_an_edited_run_is_refused(cikd, teacher, recipe):
    config = Path(teacher) / "config.toml"
    config.write_text(config.read_text() + "\n")
    assert "config.toml" in cikd("ali", "--teacher", teacher, "--recipe", recipe, code=2).output


def test_the_log_of_a_run_begins_with_its_header(cikd, teacher):
    log = Path(teacher, "log.txt").read_text().splitlines()
    assert log[0].startswith("cikd ")
    assert any(line.startswith("data ") for line in log[:8])


def test_a_warm_up_as_long_as_the_run_is_said(cikd, photos, recipe):
    said = cikd("finetune-teacher", "--data", photos, "--recipe", recipe, "--epochs", "1", "--dry-run").stderr
    assert "the warm-up of 1 epochs is as long as the run" in said


def test_a_foreign_folder_is_scored_whole_and_what_was_learned_from_not_at_all(cikd, teacher, photos, tmp_path):
    rng = np.random.default_rng(7)
    for name in ("bars", "dots", "rows"):
        (tmp_path / "other" / name).mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "other" / name / f"{number}.png")
    scored = json.loads(cikd("eval", teacher, "--data", "other", "--set", "latency=false", "--json").stdout)
    assert scored["images"] == 15
    assert "learned from every image" in cikd("eval", teacher, "--data", photos / "train", code=2).output
