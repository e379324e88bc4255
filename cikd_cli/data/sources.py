"""Where images come from: a name or a folder becomes classes, splits and a fingerprint."""

import difflib
from pathlib import Path

import numpy as np

from cikd_cli.data.decode import check_readable, looked_into
from cikd_cli.data.folders import LAYOUT, is_unicode, read_folder
from cikd_cli.data.named import NAMED, read_named
from cikd_cli.data.splits import Contents, DataSource, Split, fingerprint, hold_out, subset
from cikd_cli.errors import CikdError

__all__ = ["NAMED", "DataSource", "Split", "is_named", "load_source"]


def is_named(data: str) -> bool:
    """Whether `data` is the name of a data set; a folder of the same name is written ./digits."""
    return data in NAMED


def load_source(
    data: str,
    *,
    data_root: str | Path,
    download: bool,
    fraction: float = 1.0,
    val: float = 0.0,
    split_seed: int = 0,
    skip_unreadable: bool = False,
    labelled: bool = True,
    divided: bool = True,
) -> DataSource:
    """A named set or a folder, ready to use.

    val: share of train held out for validation, stratified. It is cut first, from the whole of train, and `fraction`
    is applied to the rest: subsets of different size share one validation split and never leak into it. Subsets are
    stratified and nested, and depend on (data, val, fraction, split_seed) only, so that all stages see the same.
    labelled=False reads any folder of images, all labels -1; named sets keep their labels.
    divided=False holds nothing of a folder out: all images of a flat one can be scored.
    Raises CikdError for data that is missing, badly laid out, or unreadable.
    """
    if is_named(data):
        root, name = Path(data_root).expanduser(), data
        contents = read_named(data, root, download=download, split_seed=split_seed)
    else:
        root = _folder(data).resolve()
        if not is_unicode(str(root)):
            raise CikdError(f"The path {root} is not UTF-8.", hint="rename the folder")
        name = str(root)
        contents = read_folder(root, split_seed=split_seed, labelled=labelled, divided=divided)
    contents = _divided(contents, fraction=fraction, val=val, split_seed=split_seed)
    given = [split for split in (contents.train, contents.val, contents.test) if split is not None]
    splits = [
        split and check_readable(split, skip_unreadable) for split in (contents.train, contents.val, contents.test)
    ]
    train, held, test = splits
    assert train is not None
    _check_still_filled(contents, train)
    return DataSource(
        classes=contents.classes,
        train=train,
        val=held,
        test=test,
        split=contents.split,
        name=name,
        fingerprint=fingerprint(contents.classes, splits, root=root),
        looked_into=sum(len(looked_into(split, skip_unreadable)) for split in given),
        skipped=sum(map(len, given)) - sum(len(split) for split in splits if split is not None),
    )


def _divided(contents: Contents, *, fraction: float, val: float, split_seed: int) -> Contents:
    train, held, words = contents.train, contents.val, contents.split
    if val and held is not None:
        raise CikdError(
            f"The data has a validation split of its own; val {val:g} would make a second one.", hint="--val 0"
        )
    if val:
        train, held = hold_out(train, val, seed=split_seed, classes=contents.classes)
        words += f"; {val:g} of train held out for validation, seed {split_seed}"
    if fraction < 1:
        train = subset(train, fraction, seed=split_seed)
        words += f"; {fraction:g} of {'the rest' if val else 'train'}, stratified, seed {split_seed}"
    return Contents(contents.classes, train, held, contents.test, words)


def _check_still_filled(contents: Contents, train: Split) -> None:
    lost = np.setdiff1d(contents.train.labels, train.labels)
    if len(lost):
        what = f"class {contents.classes[lost[0]]}" if contents.classes else "the data"
        raise CikdError(f"No readable training image of {what} is left.", hint="replace the unreadable files")


def _folder(data: str) -> Path:
    folder = Path(data).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CikdError(f"{data} is a file, not a folder of images.", hint=f"lay the images out as {LAYOUT}")
    near = _nearest(data, folder)
    raise CikdError(
        f"There is no data set and no folder {data}" + (f"; the nearest name is {near}." if near else "."),
        hint=f"--data {near}" if near else f"--data takes a folder or one of {', '.join(NAMED)}",
    )


def _nearest(data: str, folder: Path) -> str | None:
    """The most similar set name, or folder beside the one that was asked for."""
    names = {name: name for name in NAMED}
    if folder.parent.is_dir():
        names |= {str(entry).lower(): str(entry) for entry in sorted(folder.parent.iterdir()) if entry.is_dir()}
    close = difflib.get_close_matches(data.lower(), names, n=1)
    return names[close[0]] if close else None
