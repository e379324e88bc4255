"""How a folder's images are shared out among train, val and test: by their content, and by what runs before did."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cikd_cli.data.content import DIGITS, Digests, are_named, ranks
from cikd_cli.data.splits import TEST_SHARE, Indices, Labels
from cikd_cli.errors import CikdError
from cikd_cli.text import listed

Sides = NDArray[np.str_]  # (n,) of "train", "val", "test", "unused", or "" where nothing is known
Ranks = NDArray[np.uint64]
TRAIN, VAL, TEST, UNUSED = "train", "val", "test", "unused"
_SIDE = "U6"


@dataclass(frozen=True, eq=False)
class Memory:
    """What runs before did with images, by digest.

    trained: those they learned from.  held: those they did not, and `sides` why: for "test", for "val", or "unused".
    leaked: those that a run learned from without holding them out itself.  own: those of the runs' own data, and not
    only of the runs before them.  names: the runs, for people.
    """

    trained: Digests
    held: Digests
    sides: Sides
    leaked: Digests
    own: Digests
    names: tuple[str, ...] = ()

    @property
    def by_name(self) -> bool:
        """Whether it knows images by name and size only."""
        return bool(len(self.own)) and bool(are_named(self.own).all())

    def side_of(self, digests: Digests) -> Sides:
        """Where each image was: learned from ("train"), held out, or "" for one that is new."""
        found = np.zeros(len(digests), dtype=_SIDE)
        if len(self.held):
            order = np.argsort(self.held, kind="stable")
            place = np.minimum(np.searchsorted(self.held[order], digests), len(order) - 1)
            there = self.held[order][place] == digests
            found[there] = self.sides[order][place[there]]
        found[np.isin(digests, self.trained)] = TRAIN
        return found


def divide(
    labels: Labels,
    digests: Digests,
    known: Sides,
    *,
    seed: int,
    test: bool,
    val: float,
    fraction: float,
    classes: Sequence[str],
) -> Sides:
    """Where each image goes. An image that is known stays where it was; exact copies go together.

    Of each class the fifth with the lowest rank is test (if `test`), of the rest the share `val` is validation, and of
    what then remains the share `fraction` is used: a smaller one lies inside every larger one. An image counts in the
    first class that has it; of a class of one image many times each copy counts. Ranks depend on (seed, content), so
    that images that come, go or are renamed hardly move others.

    Raises:
        CikdError: a class with fewer images, counted once, than it needs for every side.
    """
    digests = told_apart(labels, digests)
    unique, first, copies = np.unique(digests, return_index=True, return_inverse=True)
    sides = known[first]
    new_classes = {label for label, members in _by_class(labels) if not (known[members] != "").any()}
    for what, share in ((TEST, TEST_SHARE if test else 0.0), (VAL, val)):
        if not share:
            continue
        order = ranks(unique, seed=seed, what=what)
        for label, own in _by_class(labels[first]):
            _hold_out(sides, own, order, what, share, whole=label in new_classes)
        for label, members in _by_class(labels):
            if label in new_classes:
                _repair(sides, np.unique(copies[members]), order, what)
        _check_both(sides[copies], labels, new_classes, classes, what, share)
    sides[sides == ""] = TRAIN
    sides = sides[copies]
    if fraction < 1:
        order = ranks(digests, seed=seed, what=UNUSED)
        for label, members in _by_class(labels):
            new = members[(sides[members] == TRAIN) & (known[members] == "")]
            least = int(label in new_classes)
            count = max(least, math.ceil(fraction * len(new) - 1e-9))  # 1e-9: 0.7 * 10 is 7.000000000000001
            sides[new[np.argsort(order[new], kind="stable")[count:]]] = UNUSED
    return sides


def told_apart(labels: Labels, digests: Digests) -> Digests:
    """The digests, but for classes of one image many times: its copies count as images, as nothing else is there."""
    apart = digests.copy()
    for _, members in _by_class(labels):
        if len(members) > 1 and len(np.unique(digests[members])) == 1:
            marks = np.array([f"{number:08x}" for number in range(len(members))], dtype="S8")
            apart[members] = np.char.add(digests[members].astype(f"S{DIGITS - 8}"), marks)
    return apart


def _by_class(labels: Labels) -> Iterator[tuple[int, Indices]]:
    """Each label, and where it is."""
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, starts[1:]), strict=True)


def _hold_out(sides: Sides, own: Indices, order: Ranks, what: str, share: float, *, whole: bool) -> None:
    """Give `what` to the share with the lowest ranks of a class's images that have no side yet.

    whole: the class is new as a whole, so that either side gets an image.
    """
    new = own[sides[own] == ""]
    count = math.floor(share * len(new) + 0.5)
    if whole:
        count = min(max(count, 1), max(len(new) - 1, 0))
    sides[new[np.argsort(order[new], kind="stable")[:count]]] = what


def _repair(sides: Sides, members: Indices, order: Ranks, what: str) -> None:
    """A class of copies of others' images may have got none of one side: move one of its images there."""
    free = members[np.isin(sides[members], (what, ""))]
    if len(free) < 2:
        return
    ranked = free[np.argsort(order[free], kind="stable")]
    if not (sides[free] == what).any():
        sides[ranked[0]] = what
    elif not (sides[free] == "").any():
        sides[ranked[-1]] = ""


def _check_both(
    sides: Sides, labels: Labels, new_classes: set[int], classes: Sequence[str], what: str, share: float
) -> None:
    """Refuse a new class without an image on either side: it has one only, however often."""
    single = {
        label: len(members)
        for label, members in _by_class(labels)
        if label in new_classes and not ((sides[members] == what).any() and (sides[members] == "").any())
    }
    if single:
        times = next((f", {count} times" for count in single.values() if count > 1), "")
        names = listed(classes[label] if classes else "(unlabelled)" for label in single)
        raise CikdError(
            f"A share of {share:g} cannot be held out: only one image in class {names}{times}.",
            hint="add images to the class, or give the data a split of its own: DIR/train/<class> and DIR/test/<class>",
        )
