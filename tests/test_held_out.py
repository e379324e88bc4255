"""What is held out of a folder is a matter of content alone, part of a run, and stays so for its descendants."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cikd_cli.data import content
from cikd_cli.data.division import TEST, TRAIN, UNUSED, VAL, Memory
from cikd_cli.data.scored import scored_folder
from cikd_cli.data.sources import load_source
from cikd_cli.data.splits import DataSource
from cikd_cli.errors import CikdError


def draw(folder: Path, counts: dict[str, int], *, seed: int = 0, first: int = 0) -> Path:
    """Noise, another in every file, in class folders."""
    for place, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng((seed, place))
        for number in range(first, first + count):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / name / f"{number:03d}.png")
    return folder


def load(folder: Path, **settings: object) -> DataSource:
    return load_source(str(folder), data_root="data", download=False, **settings)


def held(source: DataSource, side: str = TEST) -> set[bytes]:
    return set(source.digests[side].tolist()) if side in source.digests else set()


def memory_of(source: DataSource) -> Memory:
    sides = [side for side in (TEST, VAL, UNUSED) if side in source.digests]
    out = [source.digests[side] for side in sides]
    names = np.concatenate([np.full(len(digests), side) for side, digests in zip(sides, out, strict=True)])
    held_out = np.concatenate(out)
    return Memory(
        trained=source.digests[TRAIN],
        held=held_out,
        sides=names.astype("U6"),
        leaked=np.setdiff1d(source.digests[TRAIN], held_out),
        own=np.concatenate([source.digests[TRAIN], held_out]),
        names=("runs/t",),
    )


# ---- the law of the split ----


def test_a_renamed_and_moved_folder_is_divided_as_before(tmp_path):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    before = load(folder)
    for number, path in enumerate(sorted(folder.glob("*/*.png"))):
        path.rename(path.with_name(f"renamed-{97 * number % 41:03d}-{number}.png"))
    after = load(folder.rename(tmp_path / "moved"))
    assert held(after) == held(before)
    assert len(held(before)) == 8


def test_images_that_come_hardly_move_others(tmp_path):
    folder = draw(tmp_path / "set", {"a": 50, "b": 50})
    before = load(folder)
    draw(folder, {"a": 5}, seed=1, first=100)
    draw(folder, {"c": 8}, seed=2)
    assert len(held(before) - held(load(folder))) <= 1


def test_another_seed_holds_out_another_fifth_of_every_class(tmp_path):
    folder = draw(tmp_path / "set", {"a": 20, "b": 40})
    one, other = load(folder), load(folder, split_seed=1)
    assert held(one) != held(other)
    assert np.bincount(one.test.labels).tolist() == np.bincount(other.test.labels).tolist() == [4, 8]


def test_exact_copies_lie_on_one_side_under_another_class_too_and_are_named(tmp_path):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    for path in sorted((folder / "a").glob("*.png")):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    shutil.copy(folder / "a/003.png", folder / "b/same.png")
    source = load(folder)
    assert not held(source) & held(source, TRAIN)
    assert len(held(source)) == 8  # a fifth of 40 images, each counted once
    facts = dict(source.facts)
    assert "20 exact copies" in facts["copies"]
    assert "a/copy-000.png = a/000.png" in facts["copies"]
    assert "1 exact copy lies under another class as well: b/same.png = a/003.png" in facts["warning"]


def test_a_class_of_one_image_many_times_is_divided_and_said(tmp_path):
    folder = draw(tmp_path / "set", {"a": 5, "b": 1})
    for number in range(5):
        shutil.copy(folder / "b/000.png", folder / f"b/{number + 1}.png")
    source = load(folder)
    assert np.bincount(source.test.labels).tolist() == [1, 1]
    assert np.bincount(source.train.labels).tolist() == [4, 5]
    assert ("warning", "one image many times is all there is of b, so that a score on it says nothing") in source.facts


def test_copies_in_the_users_own_train_and_test_are_said(tmp_path):
    draw(tmp_path / "train", {"a": 5, "b": 5})
    draw(tmp_path / "test", {"a": 2, "b": 2}, seed=1)
    shutil.copy(tmp_path / "train/a/000.png", tmp_path / "test/a/009.png")
    facts = dict(load(tmp_path).facts)
    assert "1 exact copy lies in two splits" in facts["warning"]
    assert "train/a/000.png = test/a/009.png" in facts["warning"]


def test_of_very_many_files_names_and_sizes_stand_for_content_and_that_is_said(tmp_path, monkeypatch):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    by_content = load(folder)
    monkeypatch.setattr(content, "MOST", 10)
    by_name = load(folder)
    assert "by name and size" in by_name.split
    assert "by name and size" in dict(by_name.facts)["told apart"]
    assert "by name" not in by_content.split
    assert (len(by_name.test), len(by_name.train)) == (8, 32)
    assert held(load(folder.rename(tmp_path / "moved"))) == held(by_name)


def test_a_smaller_fraction_lies_inside_a_larger_one_when_images_come(tmp_path):
    folder = draw(tmp_path / "set", {"a": 40, "b": 40})
    tenth, half = load(folder, fraction=0.1), load(folder, fraction=0.5)
    assert held(tenth, TRAIN) < held(half, TRAIN)
    assert held(tenth) == held(half)
    assert len(held(tenth, UNUSED)) == len(tenth.unused) == 64 - len(tenth.train)


# ---- what runs before did ----


def test_a_grown_folder_keeps_what_was_held_out_and_divides_only_what_is_new(tmp_path):
    folder = draw(tmp_path / "set", {"a": 30, "b": 30})
    before = load(folder, val=0.2)
    draw(folder, {"a": 20, "b": 20}, seed=1, first=100)
    draw(folder, {"c": 10}, seed=2)
    after = load(folder, val=0.2, memory=memory_of(before))
    for side in (TEST, VAL, TRAIN):
        assert held(before, side) <= held(after, side)
    new = len(after.test) - len(before.test), len(after.val) - len(before.val), len(after.train) - len(before.train)
    assert new == (10, 8, 32)  # of 50
    assert "50 images are new (32 train, 8 val, 10 test)" in dict(after.facts)["changed"]


def test_images_that_are_gone_are_said(tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    before = load(folder)
    (folder / "a/000.png").unlink()
    (folder / "b/003.png").unlink()
    after = load(folder, memory=memory_of(before))
    assert "2 images are gone" in dict(after.facts)["changed"]
    assert held(after) <= held(before)


def test_an_unchanged_folder_says_nothing_of_changes(tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    assert load(folder, memory=memory_of(load(folder))).facts == ()


def test_unlabelled_images_leave_out_what_a_run_before_holds_out(tmp_path):
    photos = draw(tmp_path / "photos", {"a": 10, "b": 10})
    before = load(photos)
    pile = tmp_path / "pile"
    pile.mkdir()
    for number, path in enumerate(sorted(photos.glob("*/*.png"))):
        shutil.copy(path, pile / f"{number}.png")
    draw(pile, {"more": 5}, seed=3)
    after = load(pile, labelled=False, memory=memory_of(before))
    assert not held(before) & held(after, TRAIN)
    assert len(after.train) == 16 + 5


def test_a_test_folder_with_images_that_a_run_before_learned_from_is_refused_with_their_number(tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    before = load(folder)
    parted = tmp_path / "parted"
    for name in ("a", "b"):
        (parted / "test" / name).mkdir(parents=True)
    shutil.copytree(folder, parted / "train")
    learned = list(before.train.items)[:3]
    for path in learned:
        (parted / "train" / path.parent.name / path.name).rename(parted / "test" / path.parent.name / path.name)
    draw(parted / "test", {"a": 2, "b": 2}, seed=5, first=50)
    with pytest.raises(CikdError, match="3 of the 7 test images are among those that runs/t learned from"):
        load(parted, memory=memory_of(before))


def test_a_test_image_that_the_user_moves_into_train_may_be_trained_on(tmp_path):
    draw(tmp_path / "train", {"a": 5, "b": 5})
    draw(tmp_path / "test", {"a": 4, "b": 4}, seed=1)
    before = load(tmp_path)
    (tmp_path / "test/a/000.png").rename(tmp_path / "train/a/100.png")
    after = load(tmp_path, memory=memory_of(before))
    assert (len(after.train), len(after.test)) == (11, 7)


def test_a_folder_that_grows_beyond_what_is_read_whole_is_still_known_by_content(tmp_path, monkeypatch):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    before = load(folder)
    draw(folder, {"a": 10, "b": 10}, seed=1, first=100)
    monkeypatch.setattr(content, "MOST", 45)
    after = load(folder, memory=memory_of(before))
    assert held(before) < held(after)
    assert not held(after) & held(before, TRAIN)


def test_a_folder_that_was_known_by_name_stays_so_when_it_shrinks(tmp_path, monkeypatch):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    monkeypatch.setattr(content, "MOST", 10)
    before = load(folder)
    monkeypatch.setattr(content, "MOST", 1000)
    assert held(load(folder, memory=memory_of(before))) == held(before)


# ---- what a run may be scored on ----


def scored(folder: Path, memory: Memory, *, own: bool = True, split: str = TEST) -> tuple[DataSource, bool]:
    return scored_folder(
        str(folder), memory, own=own, split=split, classes=("a", "b"), labelled=True, skip_unreadable=False
    )


def test_a_run_is_scored_on_what_it_held_out_wherever_the_folder_lies(tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    before = load(folder)
    moved = shutil.copytree(folder, tmp_path / "moved")
    for place, own in ((folder, True), (moved, False)):
        source, is_own = scored(place, memory_of(before), own=own)
        assert is_own
        assert held(source) == held(before)
        assert source.fingerprint == before.fingerprint


def test_new_images_and_new_classes_in_a_runs_own_folder_are_left_alone_and_said(tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    before = load(folder)
    draw(folder, {"a": 3}, seed=1, first=100)
    draw(folder, {"aa": 4}, seed=2)
    source, _ = scored(folder, memory_of(before))
    assert held(source) == held(before)
    assert source.classes == ("a", "b")
    assert source.test.labels.tolist() == before.test.labels.tolist()
    assert ("left out", "4 images of aa, which the run does not know") in source.facts
    assert "3 images are new (3 not looked at)" in dict(source.facts)["changed"]


def test_other_images_are_scored_without_those_that_the_run_learned_from(tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    before = load(folder)
    other = draw(tmp_path / "other", {"a": 6, "b": 6}, seed=9)
    source, own = scored(other, memory_of(before), own=False)
    assert (len(source.test), own) == (12, False)
    for path in list(before.train.items)[:5]:
        shutil.copy(path, other / path.parent.name / f"learned-{path.name}")
    source, own = scored(other, memory_of(before), own=False)
    assert (len(source.test), own) == (12, False)
    assert "left out: 5 of the images, from which runs/t learned" in dict(source.facts)["warning"]


def test_a_folder_of_learned_images_only_cannot_be_scored(tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    before = load(folder)
    for path in before.test.items:
        path.unlink()
    for own in (True, False):
        with pytest.raises(CikdError, match="runs/t"):
            scored(folder, memory_of(before), own=own)


def test_other_images_in_three_folders_are_scored_on_their_test_folder(tmp_path):
    before = load(draw(tmp_path / "set", {"a": 10, "b": 10}))
    for seed, part in enumerate(("train", "val", "test"), start=5):
        draw(tmp_path / "other" / part, {"a": 4, "b": 4}, seed=seed)
    source, own = scored(tmp_path / "other", memory_of(before), own=False)
    assert (len(source.test), own) == (8, False)
    assert {path.parent.parent.name for path in source.test.items} == {"test"}


def test_a_test_folder_of_the_users_own_is_scored_as_it_was_also_with_copies_that_were_said(tmp_path):
    draw(tmp_path / "set/train", {"a": 6, "b": 6})
    draw(tmp_path / "set/test", {"a": 3, "b": 3}, seed=1)
    shutil.copy(tmp_path / "set/train/a/000.png", tmp_path / "set/test/a/100.png")
    before = load(tmp_path / "set")
    source, _ = scored(tmp_path / "set", memory_of(before))
    assert len(source.test) == 7
    assert "in two splits" in dict(source.facts)["warning"]
    shutil.copy(tmp_path / "set/train/b/000.png", tmp_path / "set/test/b/100.png")  # after the run
    source, _ = scored(tmp_path / "set", memory_of(before))
    assert len(source.test) == 7
    assert "left out: 1 of the images, from which runs/t learned" in [text for _, text in source.facts]


def test_train_images_can_be_scored_by_name(tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    before = load(folder)
    source, _ = scored(folder, memory_of(before), split=TRAIN)
    assert held(source, TRAIN) == held(before, TRAIN)


# ---- runs ----


def lines(run: str, name: str) -> list[str]:
    return Path(run, name).read_text().splitlines()


def test_a_run_says_which_images_it_kept_and_its_descendants_keep_them(cikd, recipe, tmp_path):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    cikd("finetune-teacher", "--data", folder, "--recipe", recipe, "--name", "t", "--quiet")
    kept = {line.split()[0] for line in lines("runs/t", "held-out.txt")}
    assert len(kept) == 8
    assert all(line.split()[1] == "test" for line in lines("runs/t", "held-out.txt"))
    assert len(lines("runs/t", "trained-on.txt")) == 32
    draw(folder, {"a": 15, "b": 15}, seed=4, first=100)
    said = cikd("ali", "--data", folder, "--recipe", recipe, "--name", "a").output
    assert "30 images are new" in said
    cikd("lm", "--from", "runs/a", "--recipe", recipe, "--name", "l", "--quiet")
    for run in ("runs/a", "runs/l"):
        after = {line.split()[0] for line in lines(run, "held-out.txt")}
        assert kept < after
        assert len(after) == 8 + 6
        assert not kept & {line.split()[0] for line in lines(run, "trained-on.txt")}
    first = json.loads(cikd("eval", "runs/t", "--no-latency", "--json").stdout)
    assert first["images"] == 8  # the teacher's own, though the folder has grown
    assert json.loads(cikd("eval", "runs/l", "--no-latency", "--json").stdout)["images"] == 14
    shutil.move(folder, tmp_path / "elsewhere")
    assert "--data DIR says where they lie now" in cikd("eval", "runs/t", code=2).output
    moved = json.loads(cikd("eval", "runs/t", "--data", "elsewhere", "--no-latency", "--json").stdout)
    assert (moved["images"], moved["top1"]) == (8, first["top1"])
    cikd("lm", "--from", "runs/a", "--data", "elsewhere", "--recipe", recipe, "--name", "m", "--quiet")
    assert lines("runs/m", "held-out.txt") == lines("runs/l", "held-out.txt")


def test_a_finished_curriculum_is_scored_on_what_it_held_out_when_the_folder_has_grown(cikd, recipe, tmp_path):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    words = ("run", "--data", folder, "--recipe", recipe, "--epochs", "1", "--set", "warmup=0", "--gpus", "cpu")
    first = json.loads(cikd(*words, "--json").stdout)
    draw(folder, {"a": 15, "b": 15}, seed=4, first=100)
    outcome = cikd(*words, "--json")
    assert "30 images are new" in outcome.stderr
    assert "--fresh trains anew" in outcome.stderr
    again = json.loads(outcome.stdout)
    assert again["lm"] == first["lm"]
    assert again["eval"]["images"] == first["eval"]["images"] == 8
    assert again["eval"]["top1"] == first["eval"]["top1"]


def test_the_weights_file_of_a_run_stands_for_the_run(cikd, recipe, tmp_path):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    words = ("finetune-teacher", "--data", folder, "--recipe", recipe, "--quiet")
    cikd(*words, "--name", "t")
    for name, typed in (
        ("f", ("--teacher", "runs/t/model.safetensors")),
        ("s", ("--set", "teacher=runs/t/model.safetensors")),
    ):
        cikd(*words, "--name", name, "--set", "split_seed=5", *typed)
        assert {line.split()[0] for line in lines(f"runs/{name}", "held-out.txt")} == {
            line.split()[0] for line in lines("runs/t", "held-out.txt")
        }


def test_what_one_parent_held_out_does_not_excuse_what_another_learned_from(cikd, recipe, tmp_path):
    flat = draw(tmp_path / "flat", {"a": 10, "b": 10})
    cikd("finetune-teacher", "--data", flat, "--recipe", recipe, "--name", "one", "--quiet")
    cikd("ali", "--teacher", "runs/one", "--recipe", recipe, "--name", "a", "--quiet")
    parted = tmp_path / "parted"
    shutil.copytree(flat, parted / "train")
    for path in sorted(parted.glob("train/*/00[0-4].png")):
        place = parted / "test" / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    cikd("finetune-teacher", "--data", parted, "--recipe", recipe, "--name", "two", "--quiet")
    said = cikd("ali", "--teacher", "runs/two", "--from", "runs/a", "--recipe", recipe, code=2).output
    assert "of the 10 test images are among those that" in said


def test_edited_lists_of_images_are_noticed(cikd, teacher):
    with Path(teacher, "held-out.txt").open("a") as file:
        file.write("0" * 32 + " test more.png\n")
    assert "held-out.txt was changed" in cikd("eval", teacher, code=2).output


def test_other_images_under_lm_are_refused(cikd, teacher, recipe, tmp_path):
    cikd("ali", "--teacher", teacher, "--recipe", recipe, "--name", "a", "--quiet")
    other = draw(tmp_path / "other", {"bars": 5, "dots": 5, "rows": 5}, seed=8)
    said = cikd("lm", "--from", "runs/a", "--data", other, "--recipe", recipe, code=2).output
    assert "runs/a was made for" in said


def test_a_teacher_of_other_images_in_the_same_place_is_refused(cikd, recipe, tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    cikd("finetune-teacher", "--data", folder, "--recipe", recipe, "--name", "t", "--quiet")
    shutil.rmtree(folder)
    draw(folder, {"a": 10, "b": 10}, seed=6)
    for words in (("ali", "--data", folder), ("lm", "--teacher", "runs/t")):
        assert "are not those the teacher" in cikd(*words, "--recipe", recipe, code=2).output


def test_a_named_set_has_no_lists(tmp_path):
    assert load_source("digits", data_root=tmp_path, download=False).digests == {}
