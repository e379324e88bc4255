"""The images on which a finished run is looked at: those that it held out, or others that it did not learn from."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cikd_cli.data.content import KIND
from cikd_cli.data.division import TEST, TRAIN, UNUSED, VAL, Memory, Sides
from cikd_cli.data.folders import Facts
from cikd_cli.data.looked import Looked, look_into
from cikd_cli.data.remarks import changes, copies
from cikd_cli.data.sources import assemble, open_folder
from cikd_cli.data.splits import DataSource, Split
from cikd_cli.errors import CikdError
from cikd_cli.text import listed

_NONE = np.empty(0, dtype=KIND)
NOTHING_KNOWN = Memory(_NONE, _NONE, np.empty(0, dtype="U6"), _NONE, _NONE)
_SAME = 0.5  # share of what a run held out that makes a folder elsewhere its data, moved or copied


def scored_folder(
    data: str, memory: Memory, *, own: bool, split: str, classes: Sequence[str], labelled: bool, skip_unreadable: bool
) -> tuple[DataSource, bool]:
    """A folder's images as a run with this memory may be looked at on them, and whether they are the run's own data.

    own: the folder has the path of the run's data. One elsewhere is the same data if it holds half of what the run
    held out. Of its own data a run is scored on what it held out, and new images are left alone; of other data on all
    that it did not learn from, of the folder that `split` names if there is one.
    classes: the run's. In its own data, images of others are left alone.

    Raises:
        CikdError: as `look_into`; none of the images can be scored.
    """
    looked = look_into(open_folder(data), labelled=labelled, skip_unreadable=skip_unreadable, memory=memory)
    held_out = np.intersect1d(memory.held[memory.sides == TEST], memory.own)
    own = own or (len(held_out) > 0 and bool(np.isin(held_out, looked.every_digest).mean() >= _SAME))
    facts = [*looked.found.facts, *looked.doubts, *copies(looked)]
    if own and labelled and classes:
        looked, left = _of_classes(looked, classes)
        facts += left
    known = {name: memory.side_of(part) for name, part in looked.digests.items()}
    if own:
        sides = {name: _own_side(name, looked, part, memory) for name, part in known.items()}
        facts += changes(looked, memory, known, sides, unused="not looked at")
        learned = sum(int((each == UNUSED).sum()) for name, each in sides.items() if name != TRAIN)
        words = f"what {memory.names[0]} held out"
    else:
        part = split if split in looked.parts else TRAIN
        taken = split if split == part else TEST
        sides = {name: np.full(len(each), UNUSED, dtype="U6") for name, each in known.items()}
        sides[part][(known[part] != TRAIN) | (split == TRAIN)] = taken
        learned = int((known[part] == TRAIN).sum()) if split != TRAIN else 0
        words = f"every image of {part}" if looked.found.grouped else "every image"
    if learned:
        facts.append(("warning", f"left out: {learned:,} of the images, from which {memory.names[0]} learned"))
    source = assemble(looked, sides, labelled=labelled, split=words, facts=tuple(facts), classes=looked.found.classes)
    if split == TEST and source.test is None and (learned or (own and len(held_out))):
        what = (
            "learned from every image of" if learned else f"held out {len(held_out):,} images, and none of them is in"
        )
        raise CikdError(
            f"{memory.names[0]} {what} {data}.",
            hint="--data DIR names images that it may be scored on; --split train scores what it learned from",
        )
    return source, own


def _own_side(name: str, looked: Looked, known: Sides, memory: Memory) -> Sides:
    """Where images of a run's own data are when it is looked at: as they were; new ones are left alone.

    In a folder of its own for test or val, so are those that the run learned from and did not have there.
    """
    if name != TRAIN:
        return np.where(np.isin(looked.digests[name], memory.leaked), UNUSED, name).astype("U6")
    sides = known.copy()
    for side in (TEST, VAL):
        if side in looked.parts:
            sides[known == side] = UNUSED
    sides[known == ""] = UNUSED
    return sides


def _of_classes(looked: Looked, classes: Sequence[str]) -> tuple[Looked, Facts]:
    """The images of these classes, labelled by them; a row about those of others."""
    found = looked.found
    if found.classes == tuple(classes) or not found.classes:
        return looked, ()
    place = {name: index for index, name in enumerate(classes)}
    mapped = np.array([place.get(name, -1) for name in found.classes], dtype=np.int64)
    parts, digests, left = {}, {}, 0
    for name, part in looked.parts.items():
        labels = mapped[part.labels]
        kept = np.flatnonzero(labels >= 0)
        left += len(part) - len(kept)
        parts[name] = Split(part.take(kept).items, labels[kept])
        digests[name] = looked.digests[name][kept]
    others = [name for name in found.classes if name not in place]
    facts = (("left out", f"{left:,} images of {listed(others)}, which the run does not know"),) if others else ()
    return replace(looked, found=replace(found, classes=tuple(classes)), parts=parts, digests=digests), facts
