"""Folders without labels, fractions, validation splits, unreadable files, fingerprints, very many files."""

import json
import os
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from image_folders import class_folders, load, names, photo
from PIL import Image

from cikd_cli.data import content, decode
from cikd_cli.data.paths import Paths
from cikd_cli.data.sources import load_source
from cikd_cli.errors import CikdError
from cikd_cli.settings.configs import DataConfig
from cikd_cli.training.images import describe_data


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(CikdError, match="no folder named 'cifr100'") as caught:
        load("cifr100")
    assert caught.value.hint == "did you mean cifar100?"


def test_a_missing_folder_gets_the_nearest_folder_beside_it(tmp_path: Path) -> None:
    (tmp_path / "flowers17").mkdir()
    with pytest.raises(CikdError) as caught:
        load(tmp_path / "flower17")
    assert caught.value.hint == f"did you mean {tmp_path / 'flowers17'}?"


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CikdError, match="is a file, not a folder"):
        load(photo(tmp_path / "one.png"))


# --- unlabelled folders


def test_an_unlabelled_tree_gives_every_image_without_a_label(tmp_path: Path) -> None:
    for name in ("x.png", "deep/er/y.jpg", "deep/z.png"):
        photo(tmp_path / name)
    source = load(tmp_path, labelled=False)
    assert (source.classes, source.val, source.test) == ((), None, None)
    assert [path.relative_to(tmp_path).as_posix() for path in source.train.items] == [
        "deep/er/y.jpg",
        "deep/z.png",
        "x.png",
    ]
    assert source.train.labels.tolist() == [-1, -1, -1]


def test_class_folders_read_without_labels_keep_the_same_test_images_unseen(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set", {"a": 10, "b": 10})
    plain, blind = load(folder), load(folder, labelled=False)
    assert names(blind.train) == names(plain.train)
    assert set(blind.train.labels.tolist()) == {-1}
    assert blind.classes == ()


def test_unlabelled_images_below_train_leave_the_others_alone(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a.png")
    photo(tmp_path / "test" / "b.png")
    assert names(load(tmp_path, labelled=False).train) == ["train/a.png"]


def test_a_folder_without_images_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CikdError, match="holds no images"):
        load(tmp_path, labelled=False)


def test_an_unlabelled_folder_can_be_reduced_to_a_fraction(tmp_path: Path) -> None:
    for number in range(10):
        photo(tmp_path / f"{number}.png")
    assert len(load(tmp_path, labelled=False, fraction=0.3).train) == 3


# --- fraction and val


def test_smaller_fractions_lie_inside_larger_ones_and_are_stratified(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set", {"a": 50, "b": 25})
    sets = [names(load(folder, fraction=share).train) for share in (0.1, 0.2, 0.5, 1.0)]
    for smaller, larger in pairwise(sets):
        assert set(smaller) < set(larger)
    assert [name[0] for name in sets[0]] == ["a"] * 4 + ["b"] * 2


def test_the_smallest_fraction_keeps_an_image_of_every_class(tmp_path: Path) -> None:
    source = load(class_folders(tmp_path / "set", {"a": 10, "b": 5, "c": 5}), fraction=0.001)
    assert source.train.labels.tolist() == [0, 1, 2]


def test_val_is_cut_from_train_before_the_fraction(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set", {"a": 50, "b": 50})
    whole, tenth, test = load(folder, val=0.25), load(folder, val=0.25, fraction=0.1), load(folder)
    assert names(whole.val) == names(tenth.val)
    assert len(whole.val) == 20
    assert np.bincount(whole.val.labels).tolist() == [10, 10]
    assert not set(names(whole.val)) & set(names(whole.train))
    assert names(whole.test) == names(test.test)
    assert "0.25 of train held out" in whole.split
    assert "0.1 of the rest" in tenth.split


def test_a_second_validation_split_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 10, "b": 10})
    class_folders(tmp_path / "val", {"a": 3, "b": 3})
    with pytest.raises(CikdError, match="validation split of its own"):
        load(tmp_path, val=0.1)


# --- unreadable files


def test_an_unreadable_file_is_named_before_training(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set", {"a": 5, "b": 5})
    (folder / "b" / "bad.png").write_bytes(b"")
    with pytest.raises(CikdError, match=r"b/bad.png cannot be read: it is empty") as caught:
        load(folder)
    assert "--skip-unreadable" in str(caught.value.hint)


def test_skipped_files_are_counted_and_left_out(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 5, "b": 5})
    class_folders(tmp_path / "test", {"a": 2, "b": 2})
    (tmp_path / "train" / "b" / "bad.png").write_bytes(b"GIF89a nonsense")
    (tmp_path / "test" / "a" / "bad.png").write_bytes(b"x")
    source = load(tmp_path, skip_unreadable=True)
    assert (source.skipped, len(source.train), len(source.test)) == (2, 10, 4)
    assert "b/bad.png" not in names(source.train)


def test_a_class_of_unreadable_files_only_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 2, "b": 0})
    class_folders(tmp_path / "test", {"a": 2, "b": 2})
    (tmp_path / "train" / "b" / "bad.png").write_bytes(b"x")
    with pytest.raises(CikdError, match="No readable training image of class b"):
        load(tmp_path, skip_unreadable=True)


# --- fingerprints


def test_a_moved_folder_keeps_its_fingerprint(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set", {"a": 5, "b": 5})
    before = load(folder).fingerprint
    assert load(folder.rename(tmp_path / "moved")).fingerprint == before


def test_a_renamed_an_added_and_a_changed_image_change_the_fingerprint(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 3, "b": 3})
    class_folders(tmp_path / "test", {"a": 3, "b": 3})
    prints = [load(tmp_path).fingerprint]
    (tmp_path / "test" / "a" / "000.png").rename(tmp_path / "test" / "a" / "zzz.png")
    prints.append(load(tmp_path).fingerprint)
    photo(tmp_path / "train" / "a" / "new.png")
    prints.append(load(tmp_path).fingerprint)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "train" / "a" / "new.png")
    prints.append(load(tmp_path).fingerprint)
    assert len(set(prints)) == 4


def test_other_labels_of_the_same_images_change_the_fingerprint(tmp_path: Path) -> None:
    prints = []
    for order in ([0, 1, 2, 3], [3, 1, 2, 0]):
        rows = [{"name": f"{number}.png", "label": label} for number, label in enumerate(order)]
        for row in rows:
            photo(tmp_path / "chaoyang" / str(row["name"]))
        for part in ("train", "test"):
            (tmp_path / "chaoyang" / f"{part}.json").write_text(json.dumps(rows))
        prints.append(load("chaoyang", tmp_path).fingerprint)
    assert prints[0] != prints[1]


def test_the_fraction_changes_the_fingerprint() -> None:
    assert load("digits").fingerprint != load("digits", fraction=0.5).fingerprint
    assert load("digits").fingerprint == load("digits").fingerprint


# ---- very many files ----


def test_of_very_many_files_some_are_looked_into_and_that_is_said_and_skipping_looks_into_all(tmp_path, monkeypatch):
    class_folders(tmp_path / "train", {"a": 30, "b": 30})
    class_folders(tmp_path / "test", {"a": 2, "b": 2})
    (tmp_path / "train/a/001.png").write_bytes(b"torn")
    monkeypatch.setattr(content, "MOST", 10)
    monkeypatch.setattr(decode, "_SPREAD", 5)
    source = load_source(str(tmp_path), data_root=".", download=False)
    assert source.looked_into == 5 + 4
    assert "9 of the files looked into" in describe_data(source, DataConfig(data=str(tmp_path)))
    with pytest.raises(CikdError, match=r"001\.png cannot be read"):  # when it is needed
        source.train.image(1)
    thorough = load_source(str(tmp_path), data_root=".", download=False, skip_unreadable=True)
    assert (thorough.looked_into, thorough.skipped) == (64, 1)
    assert "looked into" not in describe_data(thorough, DataConfig(data=str(tmp_path)))


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have no such names")
def test_packed_paths_are_the_paths_whatever_their_names(tmp_path):
    names = ["a/1.png", "ä/ü 漢.png", os.fsdecode(b"b/\xff\xfe.png"), "c.png"]
    packed = Paths(tmp_path, names)
    assert list(packed) == [tmp_path / name for name in names]
    assert [packed[index] for index in range(4)] == list(packed)
    assert list(packed.take(np.array([2, 0]))) == [tmp_path / names[2], tmp_path / names[0]]
    assert list(Paths(tmp_path, [])) == []


def test_packed_paths_take_a_fraction_of_the_memory():
    names = [f"n{label:08d}/n{label:08d}_{index}.JPEG" for label in range(20) for index in range(1000)]

    def taken(make):
        tracemalloc.start()
        kept = make()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(kept) == len(names)
        return size

    packed = taken(lambda: Paths(Path("/data"), names))
    assert packed < 60 * len(names)
    assert 4 * packed < taken(lambda: [Path("/data", name) for name in names])
