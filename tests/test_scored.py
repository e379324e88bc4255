"""What a run may be scored on: what it held out, and other images without those that it learned from."""

import shutil
from pathlib import Path

import pytest
from noise import draw, held, load, memory_of

from cikd_cli.data.division import TEST, TRAIN, Memory
from cikd_cli.data.scored import scored_folder
from cikd_cli.data.splits import DataSource
from cikd_cli.errors import CikdError


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
