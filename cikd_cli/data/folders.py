"""Image folders: DIR/<class>/*.jpg, or DIR/train/<class> beside DIR/test/<class> and/or DIR/val/<class>."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cikd_cli.data.formats import SUFFIXES
from cikd_cli.data.paths import Paths
from cikd_cli.data.splits import TEST_SHARE, UNLABELLED, Contents, Split, hold_out
from cikd_cli.errors import CikdError

LAYOUT = "DIR/<class>/*.jpg, or DIR/train/<class>/*.jpg and DIR/test/<class>/*.jpg"


def read_folder(folder: Path, *, split_seed: int, labelled: bool, divided: bool = True) -> Contents:
    """The images of a folder, in sorted order whatever the file system says.

    Without a test folder, test is a stratified, seeded fifth of train; a val folder is the validation split.
    Not `divided`: nothing is held out, and the images of a flat folder are train and test alike.
    Not `labelled`: every label is -1 and there are no classes. If the folder reads as class folders, train holds the
    same images as with labels, so that test images stay unseen; else every image below DIR/train or DIR is used.
    Raises CikdError on no classes, one class, an empty class, and a class that is in one split only.
    """
    if labelled:
        return _read_classes(folder, split_seed, divided)
    try:
        contents = _read_classes(folder, split_seed, divided)
    except CikdError:
        return _read_unlabelled(folder)
    val, test = (split and _without_labels(split) for split in (contents.val, contents.test))
    return Contents((), _without_labels(contents.train), val, test, contents.split)


def read_classes(folder: Path, classes: Sequence[str]) -> Split:
    """The images of class folders, labelled by their place in `classes`; a class without a folder has none."""
    names: list[str] = []
    counts: list[int] = []
    for name in classes:
        found = _images_below(folder / name)
        names += [f"{name}/{image}" for image in found]
        counts.append(len(found))
    return Split(Paths(folder, names), np.repeat(np.arange(len(classes), dtype=np.int64), counts))


def class_names(folder: Path) -> tuple[str, ...]:
    """The visible subfolders of a folder, sorted; none if it does not exist.

    Raises CikdError for a name that is not UTF-8: neither JSON nor a weights file could hold it.
    """
    if not folder.is_dir():
        return ()
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    for name in names:
        if not is_unicode(name):
            raise CikdError(f"The name of the folder {folder / name} is not UTF-8.", hint="rename it, e.g. with convmv")
    return tuple(names)


def is_unicode(name: str) -> bool:
    """Whether a name was bytes of UTF-8: Python reads others as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _read_classes(folder: Path, split_seed: int, divided: bool) -> Contents:
    parted = bool(class_names(folder / "train"))  # a class may be called "train": then it holds images, not folders
    root = folder / "train" if parted else folder
    classes = class_names(root)
    train = read_classes(root, classes)
    _check_classes(root, classes, train)
    val = _read_part(folder / "val", classes) if parted else None
    test = _read_part(folder / "test", classes) if parted else None
    if test is not None:
        _check_same_classes(root, folder / "test", classes)
        return Contents(classes, train, val, test, "folder train/val/test" if val is not None else "folder train/test")
    if not divided:
        return Contents(classes, train, val, None if parted else train, "folder, not divided")
    train, test = hold_out(train, TEST_SHARE, seed=split_seed, classes=classes)
    if parted:
        name = "folder train/val" if val is not None else "folder train"
        return Contents(classes, train, val, test, f"{name}, test a stratified fifth of train, seed {split_seed}")
    return Contents(classes, train, None, test, f"stratified 80/20, seed {split_seed}")


def _read_part(folder: Path, classes: Sequence[str]) -> Split | None:
    names = class_names(folder)
    if not names:
        return None
    known = set(classes)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CikdError(
            f"Class {_list(unknown)} is in {folder} but not in {folder.parent / 'train'}.",
            hint=f"add training images of it, or remove {folder / unknown[0]}",
        )
    part = read_classes(folder, classes)
    counts = dict(zip(classes, np.bincount(part.labels, minlength=len(classes)).tolist(), strict=True))
    _check_filled(folder, names, [counts[name] for name in names])
    return part


def _check_classes(folder: Path, classes: Sequence[str], train: Split) -> None:
    if not classes:
        raise CikdError(
            f"{folder} has no class folders.",
            hint=f"lay it out as {LAYOUT}; unlabelled images serve cikd ali --data alone",
        )
    _check_filled(folder, classes, np.bincount(train.labels, minlength=len(classes)).tolist())
    if len(classes) == 1:
        raise CikdError(f"{folder} has one class only, {classes[0]}.", hint=f"lay it out as {LAYOUT}")


def _check_filled(folder: Path, classes: Sequence[str], counts: Sequence[int]) -> None:
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise CikdError(
            f"No images for class {_list(empty)} in {folder}.",
            hint=f"add some ({', '.join(sorted(kind[1:] for kind in SUFFIXES))}), or remove {folder / empty[0]}",
        )


def _check_same_classes(train: Path, test: Path, classes: Sequence[str]) -> None:
    tested = set(class_names(test))
    missing = [name for name in classes if name not in tested]
    if missing:
        raise CikdError(
            f"Class {_list(missing)} is in {train} but not in {test}.",
            hint=f"add test images of it, or remove {train / missing[0]}",
        )


def _read_unlabelled(folder: Path) -> Contents:
    root = folder / "train" if (folder / "train").is_dir() else folder
    names = _images_below(root)
    if not names:
        raise CikdError(
            f"{folder} holds no images.",
            hint=f"put some there ({', '.join(sorted(kind[1:] for kind in SUFFIXES))})",
        )
    train = Split(Paths(root, names), np.full(len(names), UNLABELLED, dtype=np.int64))
    return Contents(
        (), train, None, None, "every image of train, unlabelled" if root != folder else "every image, unlabelled"
    )


def _without_labels(split: Split) -> Split:
    return Split(split.items, np.full(len(split), UNLABELLED, dtype=np.int64))


def _images_below(folder: Path) -> list[str]:
    """Every visible image file at any depth, relative to `folder`, sorted by its path's parts."""
    found: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(parent, folder)
        before = "" if below == os.curdir else f"{below}/"
        found += [
            before + name
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122
        ]
    return sorted(found, key=lambda name: name.split("/"))


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
