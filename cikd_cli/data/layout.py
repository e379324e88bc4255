"""How an image folder is laid out, by the names of its folders alone: which of them are splits, and which classes.

Only folder names are looked at, so that a folder that cannot be used is refused before anything large is loaded.
"""

import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cikd_cli.errors import CikdError
from cikd_cli.text import listed

LAYOUT = "DIR/<class>/*.jpg, or DIR/train/<class>/*.jpg and DIR/test/<class>/*.jpg"
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}
_SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
_MEANT = _SPLIT_OF | {"trn": "train", "tst": "test", "evaluation": "test", "holdout": "test", "heldout": "test"}
_NOISE = re.compile(r"(set|data|images?|imgs?|pics|pictures|photos|split|folder|files|[\W\d_]|s$)+")
_LITTER = ("__MACOSX", "@eaDir")  # beside unpacked archives and on network disks; they hold no images of the user's

Classes = Mapping[str, tuple[Path, ...]]


class NearlyLayoutError(CikdError):
    """A layout that is nearly one that is read: read in any other way, images would be taken for what they are not."""


@dataclass(frozen=True)
class Layout:
    """The class folders of each split that a folder has.

    parts: split ("train", "val", "test") to its class folders by name; a flat folder has "train" alone. A name is in
    Unicode's composed form (NFC), and folders whose names differ in form only are one class.
    roots: the folder of each split.  unread: folders beside the splits that nothing is read from.
    """

    folder: Path
    parts: Mapping[str, Classes]
    roots: Mapping[str, Path]
    unread: tuple[Path, ...] = ()

    @property
    def parted(self) -> bool:
        """Whether the splits are folders of their own."""
        return self.roots["train"] != self.folder

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted."""
        return tuple(self.parts["train"])


def read_layout(folder: Path) -> Layout:
    """The layout of a folder of class folders.

    Raises:
        CikdError: no class folders, one class, a class that is in one split only, a name that is not UTF-8, or a
            layout that is nearly one that is read, with the renaming that makes it one.
    """
    below = class_folders(folder)
    roots = _split_folders(folder, below)
    if "train" not in roots:
        _refuse_nearly_split(folder, below)
        layout = Layout(folder, {"train": below}, {"train": folder})
    else:
        parts = {split: class_folders(root) for split, root in roots.items()}
        parts = {split: classes for split, classes in parts.items() if classes}
        kept = {split: root for split, root in roots.items() if split in parts}
        unread = tuple(path for paths in below.values() for path in paths if path not in kept.values())
        layout = Layout(folder, parts, kept, unread)
        _refuse_hidden_split(layout)
    _check_number(layout)
    _refuse_splits_inside(layout)
    _check_same(layout)
    return layout


def class_folders(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The visible folders in a folder by their names in NFC, sorted; none if it does not exist.

    Raises:
        CikdError: a name is not UTF-8: neither JSON nor a weights file could hold it.
    """
    found: dict[str, tuple[Path, ...]] = {}
    if not folder.is_dir():
        return found
    for entry in sorted(entry.name for entry in entries(folder) if _is_folder(entry)):
        if entry.startswith(".") or entry in _LITTER:
            continue
        if not is_unicode(entry):
            raise CikdError(
                f"The name of the folder {folder / entry} is not UTF-8.", hint="rename it, e.g. with convmv"
            )
        name = unicodedata.normalize("NFC", entry)
        found[name] = (*found.get(name, ()), folder / entry)
    return dict(sorted(found.items()))


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder. Raises CikdError if it may not be read."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        raise unreadable(folder, error) from error


def unreadable(folder: Path | str, error: OSError) -> CikdError:
    """The sentence about a folder that cannot be looked into."""
    reason = (error.strerror or str(error)).lower()
    return CikdError(f"The folder {folder} cannot be read: {reason}.", hint=f"ls -ld {folder} shows who may")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def is_unicode(name: str) -> bool:
    """Whether a name was bytes of UTF-8: Python reads others as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _split_folders(folder: Path, below: Classes) -> dict[str, Path]:
    """The folders that are splits, by their names in any case; train has to hold folders, else it is a class."""
    roots: dict[str, Path] = {}
    for name, (path, *_) in below.items():
        split = _SPLIT_OF.get(name.lower())
        if split is None or not class_folders(path):
            continue
        if split in roots:
            raise NearlyLayoutError(
                f"{folder} has two folders for the {split} split, {roots[split].name} and {name}.",
                hint=f"join them, or move one of them out of {folder}",
            )
        roots[split] = path
    return roots


def _nearly(name: str) -> str | None:
    """The split that a name means, exactly or nearly: `train_set`, `Test-Images`, `val2017`."""
    return _SPLIT_OF.get(name.lower()) or _MEANT.get(_NOISE.sub("", name.lower()))


def _refuse_nearly_split(folder: Path, below: Classes) -> None:
    """A folder without train whose folders are nevertheless meant as splits."""
    meant = {name: split for name in below if (split := _nearly(name))}
    if len(set(meant.values())) < 2 and not (len(meant) == len(below) > 1):
        if len(meant) == 1 and len(below) == 1 and class_folders(folder / next(iter(below))):
            (name,) = below
            raise NearlyLayoutError(
                f"{folder} has the folder {name} alone, with classes in it, and nothing to train on.",
                hint=f"--data {folder / name}, or rename it to {folder / 'train'}",
            )
        return
    if not any(class_folders(folder / name) for name in meant):
        raise CikdError(
            f"{listed(meant)} in {folder} hold images, but no class folders.",
            hint=f"lay it out as {LAYOUT}; unlabelled images serve cikd ali --data alone",
        )
    renames = [f"{name} to {split}" for name, split in meant.items() if _SPLIT_OF.get(name.lower()) != split]
    missing = "train" not in meant.values()
    what = "has no train folder" if missing else f"has splits under other names: {listed(meant)}"
    raise NearlyLayoutError(
        f"{folder} {what}; read as it is, its classes would be {listed(below)}.",
        hint="rename " + (", ".join(renames) if renames and not missing else "the folder to train on to train"),
    )


def _refuse_hidden_split(layout: Layout) -> None:
    """A folder beside train, with train's classes in it, under a name that is not read."""
    known = set(layout.classes)
    for path in layout.unread:
        shared = known & set(class_folders(path))
        if len(shared) >= max(1, len(known) // 2):
            free = [split for split in (_nearly(path.name), "test", "val") if split and split not in layout.roots]
            rename = f"rename it to {path.parent / free[0]}, or " if free else ""
            raise NearlyLayoutError(
                f"{path} has classes of {layout.roots['train']}, but no name that is read as a split.",
                hint=f"{rename}move it out of {path.parent}",
            )


def _refuse_splits_inside(layout: Layout) -> None:
    """Splits below the classes, where they would be read as one."""
    for split, classes in layout.parts.items():
        for name, paths in classes.items():
            inside = {entry: _nearly(entry) for path in paths for entry in class_folders(path)}
            meant = {entry: kind for entry, kind in inside.items() if kind}
            if len(set(meant.values())) > 1:
                first, kind = next(iter(meant.items()))
                raise NearlyLayoutError(
                    f"{layout.roots[split] / name} holds {listed(meant)}: splits below a class are not read as such.",
                    hint=f"put the split first: move {layout.roots[split] / name / first} to "
                    f"{layout.folder / str(kind) / name}, and so on",
                )


def _check_number(layout: Layout) -> None:
    root, classes = layout.roots["train"], layout.classes
    if not classes:
        raise CikdError(
            f"{root} has no class folders.",
            hint=f"lay it out as {LAYOUT}; unlabelled images serve cikd ali --data alone",
        )
    if len(classes) == 1:
        inner = layout.parts["train"][classes[0]][0]
        below = class_folders(inner)
        deeper = len(below) > 1 or bool(_split_folders(inner, below))
        hint = f"did you mean --data {inner}?" if deeper else f"lay it out as {LAYOUT}"
        raise CikdError(f"{root} has one class only, {classes[0]}.", hint=hint)


def _check_same(layout: Layout) -> None:
    """Refuse a class that is in val or test only, and one that is not in test."""
    root, classes = layout.roots["train"], set(layout.classes)
    for split, part in layout.parts.items():
        unknown = [name for name in part if name not in classes]
        if unknown:
            raise CikdError(
                f"Class {listed(unknown)} is in {layout.roots[split]} but not in {root}.",
                hint=f"add training images of it, or move {layout.roots[split] / unknown[0]} elsewhere",
            )
    missing = [name for name in layout.classes if "test" in layout.parts and name not in layout.parts["test"]]
    if missing:
        raise CikdError(
            f"Class {listed(missing)} is in {root} but not in {layout.roots['test']}.",
            hint=f"add test images of it, or move {root / missing[0]} elsewhere",
        )
