"""The images of a folder: DIR/<class>/*.jpg, or DIR/train/<class> beside DIR/test/<class> and/or DIR/val/<class>."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cikd_cli.data.formats import advice, is_image, kind
from cikd_cli.data.layout import (
    SPLITS,
    Classes,
    NearlyLayoutError,
    class_folders,
    entries,
    read_layout,
    unreadable,
)
from cikd_cli.data.paths import Paths
from cikd_cli.data.splits import UNLABELLED, Split
from cikd_cli.errors import CikdError
from cikd_cli.text import listed

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Found:
    """The images of a folder as they lie there.

    classes: () if unlabelled.  parts: "train", and "val" and "test" where they have folders of their own.
    grouped: whether the images lie in class folders.  facts: (label, text) rows about what was not read.
    """

    folder: Path
    classes: tuple[str, ...]
    parts: Mapping[str, Split]
    grouped: bool
    facts: Facts = ()


@dataclass
class _Listing:
    """The images below some folders, what else lies there, counted by kind, and links that lead back up."""

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    back: list[str] = field(default_factory=list)


def read_folder(folder: Path, *, labelled: bool) -> Found:
    """The images of a folder, in sorted order whatever the file system says.

    Not `labelled`: a folder that does not read as class folders gives every image below DIR/train or DIR, labelled -1.
    Raises CikdError for what `read_layout` refuses, and for a class without images, with what it holds instead.
    """
    try:
        return _read_classes(folder)
    except NearlyLayoutError:
        raise
    except CikdError:
        if labelled:
            raise
        return _read_unlabelled(folder)


def read_classes(folder: Path, classes: Sequence[str]) -> Split:
    """The images of a folder's class folders, labelled by their place in `classes`; one without a folder has none."""
    there = class_folders(folder)
    return _join(folder, [_list(there.get(name, ()), folder) for name in classes])


def _read_classes(folder: Path) -> Found:
    layout = read_layout(folder)
    parts, left = {}, []
    for split, classes in layout.parts.items():
        listings = [_list(classes.get(name, ()), layout.roots[split]) for name in layout.classes]
        _check_filled(layout.roots[split], classes, dict(zip(layout.classes, listings, strict=True)))
        parts[split] = _join(layout.roots[split], listings)
        where = f"{layout.roots[split].name}/" if layout.parted else ""
        left += [(where + name, listing) for name, listing in zip(layout.classes, listings, strict=True)]
    back = [f"{name}, a link that leads back up" for _, listing in left for name in listing.back]
    facts = _left_out(left) + _not_read(layout.unread, dict.fromkeys([layout.folder, *layout.roots.values()]), back)
    return Found(folder, layout.classes, parts, True, facts)


def _read_unlabelled(folder: Path) -> Found:
    trains = [paths[0] for name, paths in class_folders(folder).items() if name.lower() in SPLITS["train"]]
    root = trains[0] if trains else folder
    listing = _list([root], root, itself=True)
    if not listing.images:
        held = f", only {_kinds(listing.others)}" if listing.others else ""
        raise CikdError(f"{folder} holds no images{held}.", hint="put some there: JPEG, PNG or whatever Pillow reads")
    train = Split(Paths(root, listing.images), np.full(len(listing.images), UNLABELLED, dtype=np.int64))
    return Found(folder, (), {"train": train}, False, _left_out([("", listing)]))


def _join(root: Path, listings: Sequence[_Listing]) -> Split:
    counts = [len(listing.images) for listing in listings]
    names = [name for listing in listings for name in listing.images]
    return Split(Paths(root, names), np.repeat(np.arange(len(listings), dtype=np.int64), counts))


def _list(folders: Iterable[Path], root: Path, *, itself: bool = False) -> _Listing:
    """Every visible image file at any depth below `folders`, relative to `root`, sorted by its path's parts.

    Links are followed, but for those that lead back up to `root` or above; a folder that several lead to is read once.
    itself: `root` is the folder.

    Raises:
        CikdError: a folder may not be read.
    """
    listing, visited = _Listing(), set[tuple[int, int]]()
    above = {_identity(path) for path in (root, *root.parents)} - ({_identity(root)} if itself else set())
    for folder in folders:
        for parent, below, files in os.walk(folder, followlinks=True, onerror=_refuse):
            here = _identity(parent)
            if here in visited or here in above:
                listing.back += [os.path.relpath(parent, root)] if here in above else []
                below.clear()
                continue
            visited.add(here)
            below[:] = sorted(name for name in below if not name.startswith("."))
            before = "" if itself and parent == os.fspath(root) else f"{os.path.relpath(parent, root)}/"
            for name in files:
                if name.startswith("."):
                    continue
                path = f"{parent}/{name}"
                if is_image(path):
                    listing.images.append(before + name)
                else:
                    listing.others[kind(path)] += 1
    listing.images.sort(key=lambda name: name.split("/"))
    return listing


def _identity(folder: Path | str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> None:
    raise unreadable(str(error.filename), error) from error


def _check_filled(root: Path, there: Classes, listings: Mapping[str, _Listing]) -> None:
    """Refuse class folders without images; never advise to remove one that holds files."""
    empty = [name for name in there if not listings[name].images]
    if not empty:
        return
    folder, others = root / empty[0], Counter[str]()
    for name in empty:
        others += listings[name].others
    if others:
        hint = next(filter(None, map(advice, others)), f"put images into {folder}, or move it out of {root}")
        raise CikdError(f"No images for class {listed(empty)} in {root}, only {_kinds(others)}.", hint=hint)
    raise CikdError(
        f"No images for class {listed(empty)} in {root}.", hint=f"add some (JPEG, PNG, …), or remove the empty {folder}"
    )


def _left_out(listings: Sequence[tuple[str, _Listing]]) -> Facts:
    """What was not taken as an image, by kind, and the classes that have fewer images for it."""
    others = sum((listing.others for _, listing in listings), Counter[str]())
    if not others:
        return ()
    rows = [("left out", _kinds(others))]
    shrunk = [
        f"{name}: {sum(lost.values()):,} of {len(listing.images) + sum(lost.values()):,} ({_kinds(lost, told=False)})"
        for name, listing in listings
        if name and (lost := Counter({what: count for what, count in listing.others.items() if advice(what)}))
    ]
    if shrunk:
        rows.append(("", "classes that have fewer images for it: " + "; ".join(shrunk[:5])))
        if len(shrunk) > 5:
            rows.append(("", f"and {len(shrunk) - 5} more classes"))
    return tuple(rows)


def _kinds(others: Counter[str], *, told: bool = True) -> str:
    """`40 .heic (pip install 'cikd[heic]'), 3 .txt`."""
    parts = []
    for what, count in sorted(others.items(), key=lambda item: (-item[1], item[0])):
        how = advice(what) if told else ""
        parts.append(f"{count:,} {'without a suffix' if what == 'no suffix' else what}" + (f" ({how})" if how else ""))
    return listed(parts)


def _not_read(unread: Sequence[Path], roots: Iterable[Path], back: Sequence[str]) -> Facts:
    """Folders beside the splits, images that lie in no class folder, and links that are not followed."""
    said = [f"{path.name}/ ({_holds(path)})" for path in unread]
    for root in roots:
        stray = sum(map(_is_plain_image, entries(root)))
        if stray:
            said.append(f"{stray:,} image{'s' * (stray != 1)} in {root} itself, outside of class folders")
    said += back[:5]
    return (("not read", "; ".join(said)),) if said else ()


def _holds(path: Path) -> str:
    count = len(_list([path], path, itself=True).images)
    return f"{count:,} image{'s' * (count != 1)}" if count else "no images"


def _is_plain_image(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith("."):
        return False
    try:
        return stat.S_ISREG(entry.stat().st_mode) and is_image(entry.path)
    except OSError:
        return False
