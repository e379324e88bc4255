"""Named sets in their published layouts, image folders, splits, subsets and fingerprints."""

import json
import os
import pickle
import struct
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision import datasets

from cikd_cli.data import content, decode
from cikd_cli.data.named import NAMED, TorchvisionSet, read_torchvision
from cikd_cli.data.paths import Paths
from cikd_cli.data.sources import is_named, load_source
from cikd_cli.data.splits import DataSource, Split
from cikd_cli.errors import CikdError
from cikd_cli.settings.configs import DataConfig
from cikd_cli.training.job import describe_data


def photo(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value % 256, 7, 9)).save(path)
    return path


def class_folders(root: Path, counts: dict[str, int], *, suffix: str = ".png") -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            photo(root / name / f"{number:03d}{suffix}", number)
    return root


def load(data: str | Path, root: Path | str = "data", **settings: object) -> DataSource:
    return load_source(str(data), data_root=root, download=False, **settings)


def names(split: Split | None) -> list[str]:
    assert split is not None
    return [f"{path.parent.name}/{path.name}" for path in split.items]


# --- folders


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


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(CikdError, match="no folder cifr100; the nearest name is cifar100") as caught:
        load("cifr100")
    assert caught.value.hint == "--data cifar100"


def test_a_missing_folder_gets_the_nearest_folder_beside_it(tmp_path: Path) -> None:
    (tmp_path / "flowers17").mkdir()
    with pytest.raises(CikdError) as caught:
        load(tmp_path / "flower17")
    assert caught.value.hint == f"--data {tmp_path / 'flowers17'}"


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


# --- named sets


def test_only_the_published_names_are_named() -> None:
    assert all(is_named(name) for name in NAMED)
    assert not is_named("Digits")
    assert not is_named("./digits")


def test_digits_is_scikit_learns_stratified_fifth() -> None:
    source, digits = load("digits"), load_digits()
    train, test = train_test_split(np.arange(1797), test_size=0.2, random_state=0, stratify=digits.target)
    assert source.train.items.shape == (1437, 8, 8, 3)
    assert source.classes == tuple("0123456789")
    expected = np.rint(digits.images[np.sort(test)] * 255 / 16).astype(np.uint8)
    assert np.array_equal(source.test.items[..., 1], expected)
    assert np.array_equal(source.train.labels, digits.target[np.sort(train)])
    assert source.test.items.max() == 255


@pytest.mark.parametrize("name", [name for name in NAMED if name != "digits"])
def test_a_set_that_is_not_on_disk_says_how_to_get_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(CikdError, match=f"{name} is not in {tmp_path}") as caught:
        load(name, tmp_path)
    by_hand = name in ("cars", "cinic10", "chaoyang")
    assert (str(tmp_path / "") if by_hand else "--download") in str(caught.value.hint)
    assert caught.value.exit_code == 2


def test_cars_cannot_be_downloaded_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(CikdError, match="cars is not in") as caught:
        load_source("cars", data_root=tmp_path, download=True)
    assert "devkit" in str(caught.value.hint)


def test_a_failed_download_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    class Unreachable(datasets.CIFAR100):
        url = f"file://{tmp_path}/nowhere.tar.gz"

    known = TorchvisionSet(Unreachable, "cifar-100-python", ({"train": True},), {"train": False})
    with pytest.raises(CikdError, match="cifar100 could not be downloaded") as caught:
        read_torchvision("cifar100", known, tmp_path, download=True)
    assert caught.value.exit_code == 1
    assert "\n" not in caught.value.message


def test_a_damaged_set_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(CikdError, match="incomplete or damaged"):
        load("cifar100", tmp_path)


def test_cifar100_is_read_as_published(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    for name, rows in (("train", slice(0, 4)), ("test", slice(4, 6))):
        (folder / name).write_bytes(
            pickle.dumps({"data": pixels[rows], "fine_labels": [0, 1, 0, 1][: len(pixels[rows])]})
        )
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "bear"]}))

    class Unsigned(datasets.CIFAR100):  # torchvision's reader, for files without the published checksum
        train_list = [("train", None)]  # noqa: RUF012
        test_list = [("test", None)]  # noqa: RUF012
        meta = {"filename": "meta", "key": "fine_label_names", "md5": None}  # noqa: RUF012

    known = TorchvisionSet(Unsigned, "cifar-100-python", ({"train": True},), {"train": False})
    contents = read_torchvision("cifar100", known, tmp_path, download=False)
    assert contents.classes == ("apple", "bear")
    assert contents.train.labels.tolist() == [0, 1, 0, 1]
    assert np.array_equal(contents.test.items[1], pixels[5].reshape(3, 32, 32).transpose(1, 2, 0))


def test_mnist_is_read_as_published_and_becomes_rgb(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">HBB3I", 0, 8, 3, 3, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 3) + bytes([5, 0, 4]))
    source = load("mnist", tmp_path)
    assert source.train.items.shape == (3, 28, 28, 3)
    assert np.array_equal(source.test.items[2, :, :, 0], pixels[2])
    assert source.train.labels.tolist() == [5, 0, 4]


def test_flowers_joins_train_and_val(tmp_path: Path) -> None:
    folder = tmp_path / "flowers-102"
    for number in range(1, 7):
        photo(folder / "jpg" / f"image_{number:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 3, 3]])})
    savemat(folder / "setid.mat", {"trnid": [[5, 1]], "valid": [[2, 4]], "tstid": [[3, 6]]})

    class Unsigned(datasets.Flowers102):
        _file_dict = {"label": ("imagelabels.mat", None), "setid": ("setid.mat", None)}  # noqa: RUF012

    known = TorchvisionSet(Unsigned, "flowers-102", ({"split": "train"}, {"split": "val"}), {"split": "test"})
    contents = read_torchvision("flowers", known, tmp_path, download=False)
    assert [path.name for path in contents.train.items] == [f"image_{number:05d}.jpg" for number in (5, 1, 2, 4)]
    assert contents.train.labels.tolist() == [2, 0, 1, 1]
    assert contents.test.labels.tolist() == [0, 2]
    assert len(contents.classes) == 102


def test_pets_is_read_as_published(tmp_path: Path) -> None:
    folder = tmp_path / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for name in ("Abyssinian_1", "Abyssinian_2", "beagle_1", "beagle_2"):
        photo(folder / "images" / f"{name}.jpg")
    (folder / "annotations" / "trainval.txt").write_text("Abyssinian_1 1 1 1\nbeagle_2 2 2 1\n")
    (folder / "annotations" / "test.txt").write_text("Abyssinian_2 1 1 1\nbeagle_1 2 2 1\n")
    source = load("pets", tmp_path)
    assert source.classes == ("Abyssinian", "Beagle")
    assert names(source.train) == ["images/Abyssinian_1.jpg", "images/beagle_2.jpg"]
    assert source.test.labels.tolist() == [0, 1]


def test_aircraft_is_read_by_variant(tmp_path: Path) -> None:
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    for number in range(4):
        photo(data / "images" / f"{number}.jpg")
    (data / "variants.txt").write_text("707-320\nA300B4\n")
    (data / "images_variant_trainval.txt").write_text("0 707-320\n1 A300B4\n")
    (data / "images_variant_test.txt").write_text("2 A300B4\n3 707-320\n")
    source = load("aircraft", tmp_path)
    assert source.classes == ("707-320", "A300B4")
    assert source.test.labels.tolist() == [1, 0]


def test_cars_is_read_as_published(tmp_path: Path) -> None:
    folder = tmp_path / "stanford_cars"
    kind = [("class", np.uint8), ("fname", object)]
    rows = np.array([(1, "00001.jpg"), (2, "00002.jpg")], dtype=kind)
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(["Acura", "Audi"], dtype=object)})
    savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": rows})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows[::-1]})
    for part in ("cars_train", "cars_test"):
        for name in ("00001.jpg", "00002.jpg"):
            photo(folder / part / name)
    source = load("cars", tmp_path)
    assert source.classes == ("Acura", "Audi")
    assert names(source.train) == ["cars_train/00001.jpg", "cars_train/00002.jpg"]
    assert source.test.labels.tolist() == [1, 0]


def test_cinic10_uses_train_and_test_and_leaves_valid_alone(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("valid", 9), ("test", 2)):
        class_folders(tmp_path / "cinic10" / part, {"airplane": count, "bird": count})
    source = load("cinic10", tmp_path)
    assert (len(source.train), source.val, len(source.test)) == (6, None, 4)
    assert source.split == "published train/test, valid unused"


def test_chaoyang_is_read_from_its_lists(tmp_path: Path) -> None:
    folder = tmp_path / "chaoyang"
    for part in ("train", "test"):
        rows = [{"name": f"{part}/{label}.JPG", "label": label, "label_A": 0} for label in range(4)]
        for row in rows:
            photo(folder / str(row["name"]))
        (folder / f"{part}.json").write_text(json.dumps(rows))
    source = load("chaoyang", tmp_path)
    assert source.classes == ("normal", "serrated", "adenocarcinoma", "adenoma")
    assert names(source.test) == [f"test/{label}.JPG" for label in range(4)]


@pytest.mark.parametrize("text", ["[", '[{"name": "a.jpg"}]', '[{"name": "a.jpg", "label": 4}]', "[]", "3"])
def test_a_broken_chaoyang_list_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "chaoyang").mkdir()
    for part in ("train", "test"):
        (tmp_path / "chaoyang" / f"{part}.json").write_text(text)
    with pytest.raises(CikdError, match=r"chaoyang in .* is incomplete or damaged"):
        load("chaoyang", tmp_path)


def test_named_sets_take_val_and_fraction_too() -> None:
    source = load("digits", val=0.1, fraction=0.5)
    assert (len(source.val), len(source.test)) == (144, 360)
    assert abs(len(source.train) - (1437 - 144) / 2) <= 10


# ---- very many files ----


def test_of_very_many_files_some_are_looked_into_and_that_is_said_and_skipping_looks_into_all(tmp_path, monkeypatch):
    class_folders(tmp_path / "train", {"a": 30, "b": 30})
    class_folders(tmp_path / "test", {"a": 2, "b": 2})
    (tmp_path / "train/a/001.png").write_bytes(b"torn")
    monkeypatch.setattr(content, "MOST", 10)
    monkeypatch.setattr(decode, "_CHECKED", 10)
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
