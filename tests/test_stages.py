"""The commands end to end on a tiny folder of images: what they print, what they write, what they hand on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cikd_cli.models.weights import load_model
from cikd_cli.runs.directory import RunDir

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
    assert record.data.classes == 0
    cikd("lm", "--from", "runs/ali-001", "--recipe", recipe, "--epochs", "1")
    assert RunDir.open("runs/lm-001").record.data.name == str(photos)


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
    assert run.record.result.best_val_top1 == max(row["val_top1"] for row in run.metrics())
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


def test_ali_from_a_student_made_for_other_patches_is_refused(cikd, teacher, photos, recipe):
    cikd("ali", "--teacher", teacher, "--recipe", recipe, "--epochs", "1", "--quiet")
    words = ("finetune-teacher", "--data", photos, "--recipe", recipe, "--set", "teacher_patch=8", "--name", "coarse")
    cikd(*words, "--quiet")
    said = cikd("ali", "--teacher", "runs/coarse", "--from", "runs/ali-001", "--recipe", recipe, code=2).output
    assert "patch_size 4" in said


def test_ali_from_a_run_alone_takes_its_teacher_and_its_student(cikd, teacher, recipe):
    cikd("lm", "--teacher", teacher, "--recipe", recipe, "--epochs", "1", "--quiet")
    cikd("ali", "--from", "runs/lm-001", "--epochs", "1", "--quiet")
    assert [entry.stage for entry in RunDir.open("runs/ali-001").record.parents] == ["finetune-teacher", "lm"]
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
    assert RunDir.open("runs/teacher-001", finished=False).record.status == "failed"


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
