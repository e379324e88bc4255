"""Folders of classes: their splits, their order, and what cannot be classified."""

from pathlib import Path

import numpy as np
import pytest
from image_folders import class_folders, load, names, photo

from cikd_cli.errors import CikdError


def test_a_flat_folder_is_split_80_20_the_same_way_every_time(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set", {"a": 10, "b": 20})
    first, second = load(folder), load(folder)
    assert names(first.test) == names(second.test)
    assert (len(first.train), len(first.test)) == (24, 6)
    assert np.bincount(first.test.labels).tolist() == [2, 4]
    assert not set(names(first.train)) & set(names(first.test))
    assert first.split == "stratified 80/20, seed 0"


def test_another_split_seed_cuts_another_fifth(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set", {"a": 20, "b": 20})
    assert names(load(folder).test) != names(load(folder, split_seed=1).test)


def test_images_are_listed_in_sorted_order_whatever_the_order_on_disk(tmp_path: Path) -> None:
    for name in ("b/2", "a/10", "b/1", "a/2", "a/1"):
        photo(tmp_path / f"train/{name}.png")
        photo(tmp_path / f"test/{name}.png")
    assert names(load(tmp_path).train) == ["a/1.png", "a/10.png", "a/2.png", "b/1.png", "b/2.png"]


def test_train_and_test_folders_are_used_as_they_are(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 3, "b": 2})
    class_folders(tmp_path / "test", {"a": 1, "b": 2})
    source = load(tmp_path)
    assert (source.classes, len(source.train), len(source.test), source.val) == (("a", "b"), 5, 3, None)
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert source.name == str(tmp_path)


def test_a_val_folder_is_the_validation_split_and_never_the_test_split(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 10, "b": 10})
    class_folders(tmp_path / "val", {"a": 3, "b": 3})
    source = load(tmp_path)
    assert (len(source.train), len(source.val), len(source.test)) == (16, 6, 4)
    assert source.split == "folder train/val, test a stratified fifth of train, seed 0"
    assert all(path.is_relative_to(tmp_path / "train") for path in source.test.items)


def test_train_val_and_test_folders_are_all_used(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        class_folders(tmp_path / part, {"a": count, "b": count})
    source = load(tmp_path)
    assert (len(source.train), len(source.val), len(source.test)) == (8, 4, 6)
    assert source.split == "folder train/val/test"


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "vehicles", {"bus": 5, "train": 5})
    assert load(folder).classes == ("bus", "train")


def test_upper_case_extensions_count_and_hidden_and_foreign_files_do_not(tmp_path: Path) -> None:
    class_folders(tmp_path / "a", {"x": 2}, suffix=".PNG")
    folder = class_folders(tmp_path / "set", {"a": 2, "b": 2})
    photo(folder / "a" / "UP.JPG")
    photo(folder / "a" / ".hidden.png")
    photo(folder / ".cache" / "c.png")
    (folder / "a" / "notes.txt").write_text("no image")
    source = load(folder)
    assert source.classes == ("a", "b")
    assert sorted(names(source.train) + names(source.test))[:3] == ["a/000.png", "a/001.png", "a/UP.JPG"]
    assert len(source.train) + len(source.test) == 5


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"a": 3}, "one class only, a"),
        ({"a": 3, "b": 0, "c": 3}, "No images for class b "),
        ({}, "has no class folders"),
        ({"a": 3, "lonely": 1}, "only one image in class lonely"),
    ],
)
def test_a_folder_that_cannot_be_classified_is_one_sentence(
    tmp_path: Path, counts: dict[str, int], sentence: str
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    class_folders(folder, counts)
    with pytest.raises(CikdError, match=sentence) as caught:
        load(folder)
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    ("part", "train", "other", "sentence"),
    [
        ("test", {"a": 2, "b": 2}, {"a": 1, "b": 1, "new": 1}, "Class new is in .*test but not in .*train"),
        ("test", {"a": 2, "b": 2, "old": 1}, {"a": 1, "b": 1}, "Class old is in .*train but not in .*test"),
        ("val", {"a": 5, "b": 5}, {"new": 1}, "Class new is in .*val but not in .*train"),
        ("test", {"a": 2, "b": 2}, {"a": 1, "b": 0}, "No images for class b in .*test"),
    ],
)
def test_a_class_in_one_split_only_is_named(
    tmp_path: Path, part: str, train: dict[str, int], other: dict[str, int], sentence: str
) -> None:
    class_folders(tmp_path / "train", train)
    class_folders(tmp_path / part, other)
    with pytest.raises(CikdError, match=sentence):
        load(tmp_path)


def test_every_class_keeps_an_image_on_both_sides_of_a_cut(tmp_path: Path) -> None:
    source = load(class_folders(tmp_path / "set", {"big": 60, "x": 2, "y": 2, "z": 3}))
    assert np.bincount(source.train.labels).min() >= 1
    assert np.bincount(source.test.labels, minlength=4).min() >= 1
