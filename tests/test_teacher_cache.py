"""The teacher's logits on disk: computed once, equal to computed anew, and never taken for others."""

import errno
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
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.logit_cache import TeacherCache
from cikd_cli.models.teachers import create_scratch_teacher
from cikd_cli.models.weights import load_model
from cikd_cli.runs.directory import RunDir

EPOCHS, STEPS = 4, 3  # 30 images in batches of 8; the first epoch distils nothing


@pytest.fixture
def passes(monkeypatch):
    """How many images each call of the real teacher saw; `at(n, act)` acts within the n-th call of the next run."""

    class Passes(list):
        def at(self, number, act):
            self.when, self.act = number, act
            self.clear()

    seen, direct = Passes(), FrozenTeacher.logits

    def counted(teacher, images):
        seen.append(len(images))
        if getattr(seen, "when", 0) == len(seen):
            seen.act()
        return direct(teacher, images)

    monkeypatch.setattr(FrozenTeacher, "logits", counted)
    return seen


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


def frozen_teacher():
    torch.manual_seed(0)
    vit = create_scratch_teacher(num_classes=5, image_size=16, patch_size=8, width=24, depth=2, heads=4)
    torch.nn.init.normal_(vit.head.weight)
    return FrozenTeacher(vit, device=torch.device("cpu"), dtype=torch.float32)


def normal_images(count):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


# ---- what is kept ----


def test_logits_are_the_direct_ones_rounded_to_half_precision_when_written_and_when_read(tmp_path):
    teacher, images, index = frozen_teacher(), normal_images(4), torch.tensor([6, 0, 3, 2])
    rounded = teacher.logits(images).half().float()
    writer = TeacherCache(tmp_path / "key", {"seed": 0}, images=7, classes=5)
    assert torch.equal(writer.logits(teacher, images, index, 2), rounded)
    writer.flush()
    reader = TeacherCache(tmp_path / "key", {"seed": 0}, images=7, classes=5)
    assert torch.equal(reader.logits(teacher, images.fill_(float("nan")), index, 2), rounded)


def test_only_the_rows_that_are_missing_are_computed(tmp_path, passes):
    teacher, images = frozen_teacher(), normal_images(6)
    for index in ([1, 4], [4, 0, 1, 5], [5, 4, 1, 0]):
        cache = TeacherCache(tmp_path / "key", {}, images=6, classes=5)
        found = cache.logits(teacher, images[index], torch.tensor(index), 0)
        cache.flush()
        torch.testing.assert_close(found, teacher.logits(images[index]).half().float(), rtol=1e-3, atol=1e-3)
        passes.pop()  # the line above
    assert passes == [2, 2]


def test_batches_that_are_partly_known_do_not_make_the_teacher_compile_again(tmp_path, passes):
    teacher, images, compiled = frozen_teacher(), normal_images(8), []

    def backend(graph, _):
        compiled.append(graph)
        return graph

    for block in teacher.vit.blocks:
        block.compile(dynamic=False, backend=backend)
    cache = TeacherCache(tmp_path / "key", {}, images=8, classes=5)
    cache.logits(teacher, images[:2], torch.arange(2), 0)
    cache.flush()
    assert len(compiled) == 1
    for end in (4, 7, 8):
        cache.logits(teacher, images[:end], torch.arange(end), 0)
        cache.flush()
    assert passes == [2, 2, 3, 1]
    assert len(compiled) == 1


def test_a_view_epoch_knows_nothing_of_another(tmp_path, passes):
    teacher, index = frozen_teacher(), torch.arange(3)
    cache = TeacherCache(tmp_path / "key", {}, images=3, classes=5)
    first = cache.logits(teacher, normal_images(3), index, 0)
    second = cache.logits(teacher, -normal_images(3), index, 1)
    assert not torch.equal(first, second)
    assert torch.equal(cache.logits(teacher, normal_images(3), index, 0), first)
    assert len(passes) == 2


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
    assert key["teacher"] == RunDir.open("runs/teacher").record["weights"]["sha256"]
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


def test_what_a_peer_has_written_meanwhile_is_read_after_a_flush(tmp_path, passes):
    teacher, images = frozen_teacher(), normal_images(4)
    ours, theirs = (TeacherCache(tmp_path / "c", {}, images=4, classes=5) for _ in range(2))
    ours.logits(teacher, images[:2], torch.tensor([0, 1]), 0)
    theirs.logits(teacher, images[2:], torch.tensor([2, 3]), 0)
    for cache in (ours, theirs):
        cache.flush()
    passes.clear()
    for cache in (ours, theirs):
        cache.logits(teacher, images, torch.arange(4), 0)
    assert not passes


def test_a_part_that_cannot_be_read_just_now_is_computed_again_and_stays(tmp_path, monkeypatch):
    teacher, images = frozen_teacher(), normal_images(4)
    cache = TeacherCache(tmp_path / "c", {}, images=4, classes=5)
    expected = cache.logits(teacher, images, torch.arange(4), 0)
    cache.flush()
    (part,) = cache.parts(0)
    told = []
    again = TeacherCache(tmp_path / "c", {}, images=4, classes=5)
    again.warn = told.append

    def busy(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", busy)
        assert torch.equal(again.logits(teacher, images, torch.arange(4), 0), expected)
    assert part.exists()
    assert "cannot be read" in told[0]
