"""Where images come from: a name or a folder becomes classes, splits and a fingerprint."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cikd_cli.data.content import Digests
from cikd_cli.data.decode import check_readable, looked_into
from cikd_cli.data.division import TEST, TRAIN, UNUSED, VAL, Memory, Sides, divide
from cikd_cli.data.folders import Facts
from cikd_cli.data.layout import is_unicode
from cikd_cli.data.looked import Looked, look_into
from cikd_cli.data.named import NAMED, read_named
from cikd_cli.data.paths import Paths
from cikd_cli.data.remarks import changes, clash, copies
from cikd_cli.data.splits import UNLABELLED, DataSource, Split, fingerprint, hold_out, subset
from cikd_cli.errors import CikdError
from cikd_cli.settings.names import check_data

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
    memory: Memory | None = None,
) -> DataSource:
    """A named set or a folder, ready to train on.

    val: share of train held out for validation, by class. It is cut first, from the whole of train, and `fraction`
    is applied to the rest: subsets of different size share one validation split and never leak into it, and are nested.
    Named sets are divided as published, or by place and seed; the images of a folder by content (`division.divide`).
    labelled=False reads any folder of images, all labels -1; named sets keep their labels.
    memory: what runs that this one descends from did with images: what they held out stays held out.

    Raises:
        CikdError: data that is missing, badly laid out or unreadable; a folder for test or val that holds what runs
            before have learned from.
    """
    if is_named(data):
        return _named(
            data, Path(data_root).expanduser(), download, fraction, val, split_seed, skip_unreadable=skip_unreadable
        )
    looked = look_into(open_folder(data), labelled=labelled, skip_unreadable=skip_unreadable, memory=memory)
    return _divided(looked, memory, labelled=labelled, fraction=fraction, val=val, split_seed=split_seed)


def open_folder(data: str) -> Path:
    """The full path of a folder of images. Raises CikdError, with the nearest name, if there is none."""
    folder = Path(data).expanduser()
    check_data(str(folder))
    root = folder.resolve()
    if not is_unicode(str(root)):
        raise CikdError(f"The path {root} is not UTF-8.", hint="rename the folder")
    return root


def assemble(
    looked: Looked, sides: dict[str, Sides], *, labelled: bool, split: str, facts: Facts, classes: Sequence[str]
) -> DataSource:
    """A source of the images of each part by their side; `split` says in words how they were divided."""
    splits: dict[str, Split] = {}
    digests: dict[str, Digests] = {}
    for side in (TRAIN, VAL, TEST, UNUSED):
        for name, part in looked.parts.items():
            chosen = np.flatnonzero(sides[name] == side)
            if len(chosen) and not (side == UNUSED and name != TRAIN):
                assert side not in splits, f"{side} comes from two folders"
                taken = part.take(chosen)
                if not (labelled and classes):
                    taken = Split(taken.items, np.full(len(taken), UNLABELLED, dtype=np.int64))
                splits[side], digests[side] = taken, looked.digests[name][chosen]
    known = tuple(classes) if labelled else ()
    parts = [splits.get(side) for side in (TRAIN, VAL, TEST)]
    return DataSource(
        classes=known,
        train=parts[0] or looked.parts[TRAIN].take(np.empty(0, dtype=np.int64)),
        val=parts[1],
        test=parts[2],
        split=split,
        name=str(looked.found.folder),
        fingerprint=fingerprint(
            known, parts, root=looked.found.folder, digests=[digests.get(side) for side in (TRAIN, VAL, TEST)]
        ),
        skipped=looked.skipped,
        looked_into=looked.looked_into,
        unused=splits.get(UNUSED),
        digests=digests,
        facts=facts,
    )


def _divided(
    looked: Looked, memory: Memory | None, *, labelled: bool, fraction: float, val: float, split_seed: int
) -> DataSource:
    found, digests = looked.found, looked.digests
    if val and VAL in looked.parts:
        raise CikdError(
            f"The data has a validation split of its own; val {val:g} would make a second one.", hint="--val 0"
        )
    known = {name: np.zeros(len(part), dtype="U6") for name, part in digests.items()}
    if memory is not None:
        known = {name: memory.side_of(part) for name, part in digests.items()}
        _refuse_leaks(looked, memory)
    for side in (TEST, VAL):  # held out of train by runs before; now in a folder of its own, which decides
        if side in looked.parts:
            known[TRAIN][known[TRAIN] == side] = ""
    made_here = found.grouped and TEST not in looked.parts
    sides = {name: np.full(len(part), name, dtype="U6") for name, part in digests.items()}
    sides[TRAIN] = divide(
        looked.parts[TRAIN].labels,
        digests[TRAIN],
        known[TRAIN],
        seed=split_seed,
        test=made_here,
        val=val,
        fraction=fraction,
        classes=found.classes,
    )
    words = _words(looked, fraction=fraction, val=val, split_seed=split_seed)
    facts = (*found.facts, *looked.doubts, *copies(looked), *changes(looked, memory, known, sides))
    return assemble(looked, sides, labelled=labelled, split=words, facts=facts, classes=found.classes)


def _refuse_leaks(looked: Looked, memory: Memory) -> None:
    """Refuse folders for test and val that hold images a run before has learned from."""
    for side in (TEST, VAL):
        if side not in looked.parts:
            continue
        leaked = np.flatnonzero(np.isin(looked.digests[side], memory.leaked))
        if len(leaked):
            items = looked.parts[side].items
            first = items[int(leaked[0])]
            raise CikdError(
                f"{len(leaked):,} of the {len(items):,} {side} images are among those that "
                f"{' and '.join(memory.names)} learned from, such as {first}.",
                hint=f"put them back into train, or train a new teacher: cikd finetune-teacher --data "
                f"{looked.found.folder}",
            )


def _words(looked: Looked, *, fraction: float, val: float, split_seed: int) -> str:
    found = looked.found
    law = f"seed {split_seed}" + ("" if looked.by == "content" else f", by {looked.by}")
    folders = "/".join(name for name in (TRAIN, VAL, TEST) if name in looked.parts)
    if not found.grouped:
        at = "every image of train" if found.folder != _root(looked) else "every image"
        words = f"{at}, unlabelled"
    elif TEST in looked.parts:
        words = f"folder {folders}"
    elif found.folder != _root(looked):
        words = f"folder {folders}, test a stratified fifth of train, {law}"
    else:
        words = f"stratified 80/20, {law}"
    if val:
        words += f"; {val:g} of train held out for validation, {law}"
    if fraction < 1:
        words += f"; {fraction:g} of {'the rest' if val else 'train'}, stratified, {law}"
    return words


def _root(looked: Looked) -> Path:
    items = looked.parts[TRAIN].items
    assert isinstance(items, Paths)
    return items.root


def _named(
    name: str, root: Path, download: bool, fraction: float, val: float, split_seed: int, *, skip_unreadable: bool
) -> DataSource:
    contents = read_named(name, root, download=download, split_seed=split_seed)
    train, held, words = contents.train, contents.val, contents.split
    if val:
        train, held = hold_out(train, val, seed=split_seed, classes=contents.classes)
        words += f"; {val:g} of train held out for validation, seed {split_seed}"
    if fraction < 1:
        train = subset(train, fraction, seed=split_seed)
        words += f"; {fraction:g} of {'the rest' if val else 'train'}, stratified, seed {split_seed}"
    given = [split for split in (train, held, contents.test) if split is not None]
    splits = [split and check_readable(split, skip_unreadable) for split in (train, held, contents.test)]
    kept, held, test = splits
    assert kept is not None
    lost = np.setdiff1d(train.labels, kept.labels)
    if len(lost):
        what = f"class {contents.classes[lost[0]]}"
        raise CikdError(f"No readable training image of {what} is left.", hint="replace the unreadable files")
    return DataSource(
        classes=contents.classes,
        train=kept,
        val=held,
        test=test,
        split=words,
        name=name,
        fingerprint=fingerprint(contents.classes, splits, root=root),
        looked_into=sum(len(looked_into(split, skip_unreadable)) for split in given),
        skipped=sum(map(len, given)) - sum(len(split) for split in splits if split is not None),
        facts=clash(name),
    )
