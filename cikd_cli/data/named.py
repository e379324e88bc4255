"""Data sets known by name: the embedded digits, torchvision's, CINIC-10 and Chaoyang, split as published."""

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision import datasets

from cikd_cli.data.folders import read_classes
from cikd_cli.data.layout import class_folders
from cikd_cli.data.splits import TEST_SHARE, Contents, Split, hold_out
from cikd_cli.errors import EXIT_FAILED, CikdError
from cikd_cli.files import EncodingError, read_text

Arguments = dict[str, Any]


@dataclass(frozen=True)
class TorchvisionSet:
    """How torchvision makes a set.

    folder: where it lies below the data root.  train, test: the arguments of each published part, joined in order.
    """

    maker: Callable[..., Any]
    folder: str
    train: tuple[Arguments, ...]
    test: Arguments
    split: str = "published train/test"


_BY_FLAG: tuple[tuple[Arguments, ...], Arguments] = (({"train": True},), {"train": False})
_BY_NAME: tuple[tuple[Arguments, ...], Arguments] = (({"split": "train"},), {"split": "test"})
_TRAINVAL: tuple[tuple[Arguments, ...], Arguments] = (({"split": "trainval"},), {"split": "test"})
_TRAIN_AND_VAL: tuple[tuple[Arguments, ...], Arguments] = (({"split": "train"}, {"split": "val"}), {"split": "test"})

TORCHVISION = {
    "mnist": TorchvisionSet(datasets.MNIST, "MNIST", *_BY_FLAG),
    "cifar10": TorchvisionSet(datasets.CIFAR10, "cifar-10-batches-py", *_BY_FLAG),
    "cifar100": TorchvisionSet(datasets.CIFAR100, "cifar-100-python", *_BY_FLAG),
    "flowers": TorchvisionSet(datasets.Flowers102, "flowers-102", *_TRAIN_AND_VAL, "published train+val/test"),
    "pets": TorchvisionSet(datasets.OxfordIIITPet, "oxford-iiit-pet", *_TRAINVAL, "published trainval/test"),
    "aircraft": TorchvisionSet(
        datasets.FGVCAircraft, "fgvc-aircraft-2013b", *_TRAINVAL, "published trainval/test, variants"
    ),
    "cars": TorchvisionSet(datasets.StanfordCars, "stanford_cars", *_BY_NAME),
}

# Sets that no client may fetch: where they are published and how to lay them out below the data root.
BY_HAND = {
    "cars": "Stanford Cars is no longer at its first address; copies of its archives go to {folder}: devkit/, "
    "cars_train/, cars_test/ and cars_test_annos_withlabels.mat",
    "cinic10": "unpack CINIC-10.tar.gz from https://datashare.ed.ac.uk/handle/10283/3192 to {folder}: "
    "train/<class>/*.png and test/<class>/*.png",
    "chaoyang": "ask for Chaoyang at https://bupt-ai-cz.github.io/HSA-NRL and unpack it to {folder}: train.json, "
    "test.json and the images they name",
}

MOST_LIST = 2**26  # bytes: half a million images
CHAOYANG_CLASSES = ("normal", "serrated", "adenocarcinoma", "adenoma")

NAMED = ("digits", "mnist", "cifar10", "cifar100", "cinic10", "flowers", "pets", "aircraft", "cars", "chaoyang")


def read_named(name: str, root: Path, *, download: bool, split_seed: int) -> Contents:
    """A named set below `root`; CikdError that says how to get it if it is not there."""
    if name == "digits":
        return read_digits(split_seed)
    if name in TORCHVISION:
        return read_torchvision(name, TORCHVISION[name], root, download=download)
    folder = root / name
    if not folder.is_dir():
        raise _absent(name, root, folder)
    return read_cinic10(folder) if name == "cinic10" else read_chaoyang(folder)


def read_digits(split_seed: int) -> Contents:
    """scikit-learn's 1,797 handwritten digits, 8x8 greys 0..16 stretched to 0..255; test is a stratified fifth."""
    from sklearn.datasets import load_digits  # slow to load, and other sets do without

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    whole = Split(np.repeat(grey[..., None], 3, axis=3), digits.target.astype(np.int64))
    classes = tuple(str(name) for name in digits.target_names)
    train, test = hold_out(whole, TEST_SHARE, seed=split_seed, classes=classes)
    return Contents(classes, train, None, test, f"stratified 80/20, seed {split_seed}")


def read_torchvision(name: str, known: TorchvisionSet, root: Path, *, download: bool) -> Contents:
    """A set that torchvision reads, its parts as published."""
    if name in BY_HAND:
        download = False
    folder = root / known.folder
    if not download and not folder.is_dir():
        raise _absent(name, root, folder)
    try:
        parts = [known.maker(root=str(root), download=download, **part) for part in (*known.train, known.test)]
    except Exception as error:  # RuntimeError, URLError, tarfile.ReadError, EOFError, KeyError, ...
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise _broken(name, root, folder, error, download=download) from error
    splits = [_split(part) for part in parts]
    return Contents(tuple(parts[0].classes), _joined(splits[:-1]), None, splits[-1], known.split)


def read_cinic10(folder: Path) -> Contents:
    """CINIC-10, train and test of 90,000 images each; its valid split stays unused (docs/method.md)."""
    classes = tuple(class_folders(folder / "train"))
    train, test = (read_classes(folder / part, classes) for part in ("train", "test"))
    if not len(train) or not len(test):
        raise _broken("cinic10", folder.parent, folder, "train/<class>/*.png or test/<class>/*.png is missing")
    return Contents(classes, train, None, test, "published train/test, valid unused")


def read_chaoyang(folder: Path) -> Contents:
    """Chaoyang: train.json and test.json list {"name": path, "label": 0..3}."""
    train, test = (_read_list(folder, part) for part in ("train.json", "test.json"))
    return Contents(CHAOYANG_CLASSES, train, None, test, "published train/test")


def _read_list(folder: Path, name: str) -> Split:
    try:
        rows = json.loads(read_text(folder / name, most=MOST_LIST))
        paths = [folder / _inside(row["name"]) for row in rows]
        labels = np.array([int(row["label"]) for row in rows], dtype=np.int64)
    except EncodingError as error:
        raise CikdError(f"{folder / name} cannot be read: {error}", hint=error.hint) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise _broken("chaoyang", folder.parent, folder, f"{name}: {type(error).__name__} {error}") from error
    if not len(labels) or labels.min() < 0 or labels.max() >= len(CHAOYANG_CLASSES):
        raise _broken("chaoyang", folder.parent, folder, f"{name} needs labels from 0 to {len(CHAOYANG_CLASSES) - 1}")
    return Split(paths, labels)


def _inside(name: str) -> str:
    """A path that a list names, if it stays in the list's folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{name} lies outside")
    return name


def _split(part: Any) -> Split:
    """The items and labels of a torchvision set: its array, or its files (decoded by us, not by torchvision)."""
    if hasattr(part, "data"):
        pixels = np.asarray(part.data)
        if pixels.ndim == 3:
            pixels = np.repeat(pixels[..., None], 3, axis=3)
        return Split(pixels, np.asarray(part.targets, dtype=np.int64))
    if hasattr(part, "_samples"):
        paths, labels = zip(*part._samples, strict=True)
    else:
        paths, labels = part._images if hasattr(part, "_images") else part._image_files, part._labels
    return Split([Path(path) for path in paths], np.array(labels, dtype=np.int64))


def _joined(splits: list[Split]) -> Split:
    if len(splits) == 1:
        return splits[0]
    items: list[Path | Image.Image] = [item for split in splits for item in split.items]
    return Split(items, np.concatenate([split.labels for split in splits]))


def _absent(name: str, root: Path, folder: Path) -> CikdError:
    own = f"--data ./{name} names the folder here; " if Path(name).is_dir() else ""
    if name in BY_HAND:
        return CikdError(f"{name} is not in {root}.", hint=own + BY_HAND[name].format(folder=folder))
    hint = f"{own}--download fetches it; --data-root names another folder that has it"
    return CikdError(f"{name} is not in {root}.", hint=hint)


def _broken(name: str, root: Path, folder: Path, reason: object, *, download: bool = False) -> CikdError:
    reason = str(reason).strip().splitlines()[0].rstrip(".") if str(reason).strip() else type(reason).__name__
    if download:
        return CikdError(
            f"{name} could not be downloaded to {root}: {reason}.",
            hint="try again; on a machine without internet, copy the folder of another machine's data root",
            exit_code=EXIT_FAILED,
        )
    hint = BY_HAND[name].format(folder=folder) if name in BY_HAND else f"remove {folder} and fetch it with --download"
    return CikdError(f"{name} in {folder} is incomplete or damaged: {reason}.", hint=hint)
