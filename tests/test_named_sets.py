"""Named sets in their published layouts."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from image_folders import class_folders, load, names, photo
from scipy.io import savemat
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision import datasets

from cikd_cli.data.named import NAMED, TorchvisionSet, read_torchvision
from cikd_cli.data.sources import is_named, load_source
from cikd_cli.errors import CikdError


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
