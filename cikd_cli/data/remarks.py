"""What is said of the images of a folder beside their number: copies, changes, and names that clash."""

from pathlib import Path

import numpy as np

from cikd_cli.data import content
from cikd_cli.data.division import TEST, TRAIN, UNUSED, VAL, Memory, Sides, told_apart
from cikd_cli.data.folders import Facts
from cikd_cli.data.looked import Looked
from cikd_cli.data.paths import Paths
from cikd_cli.data.splits import Indices
from cikd_cli.text import listed


def copies(looked: Looked) -> Facts:
    """Rows that name exact copies: in one class, under another, and in two splits of the user's own."""
    if looked.by != "content":
        return (("told apart", f"by name and size, as more than {content.MOST:,} files are"),)
    every, unique, first = looked.every_digest, *np.unique(looked.every_digest, return_index=True)
    if len(unique) == len(every):
        return ()
    firsts = first[np.searchsorted(unique, every)]
    again = np.flatnonzero(firsts != np.arange(len(every)))
    labels = np.concatenate([split.labels for split in looked.parts.values()])
    bounds = np.cumsum([len(split) for split in looked.parts.values()])
    part = np.searchsorted(bounds, np.arange(len(every)), side="right")
    other_part = again[part[again] != part[firsts[again]]]
    elsewhere = again[(part[again] == part[firsts[again]]) & (labels[again] != labels[firsts[again]])]
    same = np.setdiff1d(again, np.concatenate([other_part, elsewhere]))
    name = _Names(looked)
    rows = list(_single(looked))
    if len(same):
        rows.append(("copies", f"{_exact(same)} on the side of the first: {name.pairs(same, firsts)}"))
    if len(elsewhere):
        rows.append(("warning", f"{_exact(elsewhere)} under another class as well: {name.pairs(elsewhere, firsts)}"))
    if len(other_part):
        said = "in two splits, so that a score on them says nothing"
        rows.append(("warning", f"{_exact(other_part)} {said}: {name.pairs(other_part, firsts)}"))
    return tuple(rows)


def _single(looked: Looked) -> Facts:
    """A row about classes that are one image many times."""
    train = looked.parts[TRAIN]
    apart = told_apart(train.labels, looked.digests[TRAIN]) != looked.digests[TRAIN]
    found = np.unique(train.labels[apart]).tolist()
    if not found or not looked.found.classes:
        return ()
    names = listed(looked.found.classes[label] for label in found)
    return (("warning", f"one image many times is all there is of {names}, so that a score on it says nothing"),)


class _Names:
    """The names of images by their place among those of all parts."""

    def __init__(self, looked: Looked) -> None:
        self._folder = looked.found.folder
        self._items = [split.items for split in looked.parts.values()]

    def pairs(self, indices: Indices, firsts: Indices) -> str:
        first = indices[:5].tolist()
        return listed((f"{self._name(index)} = {self._name(int(firsts[index]))}" for index in first), len(indices))

    def _name(self, index: int) -> str:
        for items in self._items:
            if index < len(items):
                assert isinstance(items, Paths)
                return items[index].relative_to(self._folder).as_posix()
            index -= len(items)
        raise IndexError(index)


def changes(
    looked: Looked, memory: Memory | None, known: dict[str, Sides], sides: dict[str, Sides], *, unused: str = UNUSED
) -> Facts:
    """A row about images that came and went since the runs in `memory`, if it is their data."""
    if memory is None or not any((part != "").any() for part in known.values()):
        return ()
    new = np.concatenate([sides[name][part == ""] for name, part in known.items()])
    gone = len(np.setdiff1d(np.union1d(memory.trained, memory.held), looked.every_digest))
    if not len(new) and not gone:
        return ()
    words = {TRAIN: TRAIN, VAL: VAL, TEST: TEST, UNUSED: unused}
    places = ", ".join(f"{int((new == side).sum()):,} {word}" for side, word in words.items() if side in new)
    said = [f"{_count(len(new))} new ({places})"] if len(new) else []
    said += [f"{_count(gone)} gone"] if gone else []
    return (("changed", f"since {' and '.join(memory.names)}: {', '.join(said)}; the others stay where they were"),)


def _exact(copies: Indices) -> str:
    return f"{len(copies):,} exact {'copy lies' if len(copies) == 1 else 'copies lie'}"


def _count(images: int) -> str:
    return f"{images:,} image{'s are' if images != 1 else ' is'}"


def clash(name: str) -> Facts:
    """A row about a folder here that has the name of a set."""
    if not Path(name).is_dir():
        return ()
    return (("warning", f"{name} is the data set of that name; the folder here is --data ./{name}"),)
