"""Runs that share a cache of the teacher's logits: what they read, add, refuse and leave alone."""

import json
import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from cikd_cli.data.decode import DecodedSplit
from cikd_cli.data.loader import TrainLoader
from cikd_cli.data.splits import Split
from cikd_cli.data.views import ViewLaw
from cikd_cli.errors import EXIT_INTERRUPTED
from cikd_cli.models.weights import load_model
from cikd_cli.runs.directory import RunDir

EPOCHS, STEPS = 4, 3  # 30 images in batches of 8; the first epoch distils nothing


@pytest.fixture
def lm(cikd, teacher, recipe, passes):
    """Run `cikd lm` with a cache in ./cache; what it said, after forgetting the passes of runs before."""

    def run(name, *words, cache="cache", code=0):
        passes.clear()
        words = ("--teacher", teacher, "--recipe", recipe, "--epochs", EPOCHS, "--name", name, *words)
        return cikd("lm", *words, *(("--teacher-cache", cache) if cache else ()), code=code).output

    return run


def weights(name):
    return (Path("runs") / name / "model.safetensors").read_bytes()


def parts(cache="cache", epoch="*"):
    return sorted(Path(cache).glob(f"*/epoch-{epoch}-*.safetensors"))


# ---- runs that share ----


def test_a_second_run_with_another_alpha_temperature_and_student_never_runs_the_teacher(lm, passes):
    said = lm("first")
    assert passes == [8] * STEPS * (EPOCHS - 1)
    assert "for 3 view-epochs, 0 of them begun" in said
    said = lm("second", "--alpha", "2", "--temperature", "3", "--lr", "1e-4", "--set", "student_width=16")
    assert passes == []
    assert "3 of them begun" in said


def test_a_run_that_reads_equals_the_run_that_wrote_bit_for_bit(lm):
    lm("first")
    lm("second")
    assert weights("first") == weights("second")


def test_half_precision_is_all_that_a_cache_changes(lm):
    lm("with")
    lm("without", cache=None)
    assert weights("with") != weights("without")
    rows = [RunDir.open(f"runs/{name}").metrics()[-1]["loss"] for name in ("with", "without")]
    assert rows[0] == pytest.approx(rows[1], rel=1e-3)


def test_another_batch_size_reads_what_is_there_and_adds_the_rest(lm, passes):
    lm("first")  # leaves 6 of 30 images out of every epoch
    lm("second", "--batch-size", "10")
    assert sum(passes) == 6 * (EPOCHS - 1)
    lm("third", "--batch-size", "15")
    assert passes == []


def test_auto_lies_beside_the_runs_and_is_no_run(lm, cikd, passes):
    lm("first", "--runs-dir", "elsewhere", cache="auto")
    assert parts("elsewhere/teacher-cache")
    assert "teacher-cache" not in cikd("runs", "--runs-dir", "elsewhere").output
    cikd("lm", "--config", "elsewhere/first/config.toml", "--quiet")
    assert len(passes) == STEPS * (EPOCHS - 1)


def test_without_distillation_there_is_no_cache(lm, passes):
    lm("labels", "--no-distill")
    assert passes == []
    assert not Path("cache").exists()


def test_a_dry_run_writes_nothing(lm):
    lm("dry", "--dry-run")
    assert not Path("cache").exists()


# ---- what is not taken for another ----


def test_a_cache_of_another_seed_is_named_and_left_alone(lm, passes):
    lm("first")
    before = {path: path.read_bytes() for path in Path("cache").rglob("*.*")}
    said = lm("second", "--seed", "1", "--set", "flip=0.25")
    (key,) = {path.parent for path in before}
    assert f"{key.resolve()} was made for something else (seed, flip); it is left alone" in said
    assert len(passes) == STEPS * (EPOCHS - 1)
    assert before.items() <= {path: path.read_bytes() for path in Path("cache").rglob("*.*")}.items()


def test_a_cache_of_another_teacher_is_named_and_left_alone(lm, cikd, photos, recipe, passes):
    lm("first")
    words = ("--data", photos, "--recipe", recipe, "--seed", "1", "--name", "other", "--quiet")
    cikd("finetune-teacher", *words)
    assert "was made for something else (teacher); it is" in lm("second", "--teacher", "runs/other")
    assert len(passes) == STEPS * (EPOCHS - 1)


def test_the_folder_says_what_it_was_made_for(lm):
    lm("first")
    (path,) = Path("cache").glob("*/key.json")
    key = json.loads(path.read_text())
    assert key["teacher"] == RunDir.open("runs/teacher").record.weights.sha256
    assert (key["images"], key["seed"], key["precision"], key["device"]) == (30, 0, "fp32", "cpu")
    assert {"data", "mean", "std", "decode_size", "view_version", "image_size", "crop_scale", "augment"} <= set(key)


# ---- what goes wrong ----


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:-1] + b"\x55"])
def test_a_damaged_part_is_named_and_written_again(lm, passes, damage):
    lm("first")
    (part,) = parts(epoch="0003")
    whole = part.read_bytes()
    part.write_bytes(damage(whole))
    assert f"{part.resolve()} is damaged" in lm("second")
    assert passes == [8] * STEPS
    assert part.read_bytes() == whole
    assert weights("first") == weights("second")


def test_a_disk_too_small_is_refused_before_anything_is_written(lm, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 100, 100))
    said = lm("first", code=2)
    assert "The teacher cache needs" in said
    assert "--views-per-image K" in said
    assert not Path("runs/first").exists()
    assert not Path("cache").exists()


def test_a_file_in_the_place_of_the_folder_is_a_sentence(lm):
    Path("cache").write_text("not a folder")
    assert "is not a folder" in lm("first", code=2)


# ---- stopped runs ----


def test_a_run_stopped_within_an_epoch_keeps_its_rows_and_equals_one_that_never_stopped(lm, cikd, passes):
    lm("straight", cache="other")
    passes.at(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    lm("broken", code=EXIT_INTERRUPTED)
    assert len(parts()) == 1
    cikd("lm", "--resume", "runs/broken", "--quiet")
    assert passes == [8] * STEPS * (EPOCHS - 1)
    assert weights("broken") == weights("straight")


@pytest.mark.parametrize("views", ["0", "1"])
def test_a_run_killed_within_an_epoch_equals_one_that_never_stopped(lm, cikd, passes, views):
    lm("straight", "--views-per-image", views, cache="other")

    def die():
        raise MemoryError("as good as killed: nothing is saved any more")

    passes.at(STEPS, die)
    lm("killed", "--views-per-image", views, "--save-every", "0.00001", code=1)
    assert len(parts()) == STEPS - 1  # one with each checkpoint
    cikd("lm", "--resume", "runs/killed", "--quiet")
    assert weights("killed") == weights("straight")


def test_two_processes_fill_one_cache_and_equal_one_process(lm, passes):
    lm("one", cache="other")
    lm("two", "--gpus", "cpu", "--processes", "2")
    one, two = (load_model(RunDir.open(f"runs/{name}").weights)[0].state_dict() for name in ("one", "two"))
    for name in one:
        if not name.endswith("qkv.bias"):  # a key's bias has no gradient but rounding: see test_distributed
            torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=2e-5, msg=name)
    assert len(parts()) == 2 * (EPOCHS - 1)
    lm("reader")
    assert passes == []


# ---- views that come again ----


def test_views_come_again_with_period_k_and_the_order_does_not():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
    decoded = DecodedSplit(Split(pixels, np.arange(6)))
    loader = TrainLoader(decoded, ViewLaw(8), batch_size=6, seed=0, two_views=False, views_per_image=2, workers=0)
    epochs = list(loader.batches(0, 4))
    shown = [batch.images[batch.index.argsort()] for batch in epochs]
    assert torch.equal(shown[0], shown[2])
    assert torch.equal(shown[1], shown[3])
    assert not torch.equal(shown[0], shown[1])
    assert not torch.equal(epochs[0].index, epochs[2].index)


def test_with_k_views_one_run_pays_the_teacher_k_times_in_a_cache_beside_the_runs(lm, passes):
    said = lm("first", "--views-per-image", "2", "--epochs", "8", "--batch-size", "10", cache=None)
    assert passes == [10] * 3 * 2
    assert "for 2 view-epochs" in said
    assert len(parts("runs/teacher-cache")) == 2


def test_fresh_views_read_what_repeated_views_have_left(lm, passes):
    lm("repeated", "--views-per-image", "2", "--batch-size", "10")
    lm("fresh", "--batch-size", "10")
    assert len(passes) == 2 * 3  # epochs 3 and 4; the second one's logits are there
