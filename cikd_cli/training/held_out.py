"""held-out.txt and trained-on.txt: which images of a folder a run kept from training, and which it learned from.

One line an image: its digest, for held-out.txt the split, and its name. What a run's parents did is in its files too,
so that they alone say what its descendants may be scored on.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cikd_cli.data.content import DIGITS, KIND, Digests
from cikd_cli.data.division import TEST, TRAIN, UNUSED, VAL, Memory, Sides
from cikd_cli.data.paths import Paths
from cikd_cli.data.splits import DataSource
from cikd_cli.errors import CikdError
from cikd_cli.files import read_text, to_json
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.reading import COPY_AGAIN

HELD, TRAINED = "held-out.txt", "trained-on.txt"
_OLDER = "(of a run before)"
_MOST = 2**30  # bytes
_LINES = {
    HELD: re.compile(f"([0-9a-fn]{{{DIGITS}}}) ({TEST}|{VAL}|{UNUSED}) (.*)"),
    TRAINED: re.compile(f"([0-9a-fn]{{{DIGITS}}}) (.*)"),
}


def remember(runs: Sequence[RunDir]) -> Memory | None:
    """What runs did with images; None if none of them has learned from a folder.

    Raises:
        CikdError: a file of a run is missing or damaged.
    """
    found = [(str(run.path), _Lists.read(run)) for run in runs if run.record.images]
    if not found:
        return None
    lists = [each for _, each in found]
    held, first = np.unique(np.concatenate([each.held for each in lists]), return_index=True)
    return Memory(
        trained=np.unique(np.concatenate([each.trained for each in lists])),
        held=held,
        sides=np.concatenate([each.sides for each in lists])[first],
        leaked=np.unique(np.concatenate([np.setdiff1d(each.trained, each.held) for each in lists])),
        own=np.unique(np.concatenate([each.own for each in lists])),
        names=tuple(name for name, _ in found),
    )


def write(run: RunDir, source: DataSource, before: Memory | None) -> None:
    """Write both files of a run that begins; a named set, which is divided as published, has none."""
    if not source.digests:
        return
    trained = source.digests.get(TRAIN, np.empty(0, dtype=KIND))
    known = np.concatenate(list(source.digests.values()))
    held = [f"{digest} {side} {name}" for side in (TEST, VAL) for digest, name in _lines(source, side)]
    copied = np.isin(source.digests[UNUSED], trained) if UNUSED in source.digests else ()
    unused = zip(_lines(source, UNUSED), copied, strict=True)
    held += [f"{digest} {UNUSED} {name}" for (digest, name), is_copy in unused if not is_copy]
    learned = [f"{digest} {name}" for digest, name in _lines(source, TRAIN)]
    if before is not None:
        older = zip(before.held.tolist(), before.sides.tolist(), ~np.isin(before.held, known), strict=True)
        held += [f"{digest.decode()} {side} {_OLDER}" for digest, side, is_older in older if is_older]
        learned += [f"{digest.decode()} {_OLDER}" for digest in before.trained[~np.isin(before.trained, trained)]]
    run.write_texts({HELD: "\n".join([*held, ""]), TRAINED: "\n".join([*learned, ""])})


def _lines(source: DataSource, side: str) -> Iterator[tuple[str, str]]:
    """Digest and name of each image on a side; the name on one line, whatever it holds."""
    split = {TRAIN: source.train, VAL: source.val, TEST: source.test, UNUSED: source.unused}[side]
    if split is None:
        return
    assert isinstance(split.items, Paths)
    for digest, name in zip(source.digests[side].tolist(), split.items.names(), strict=True):
        yield digest.decode(), to_json(name)[1:-1]


@dataclass(frozen=True, eq=False)
class _Lists:
    """The two files of a run; own: the digests of its own images, and not only of runs before it."""

    held: Digests
    sides: Sides
    trained: Digests
    own: Digests

    @classmethod
    def read(cls, run: RunDir) -> "_Lists":
        """Raises CikdError for a file that is missing or damaged."""
        held, trained = _rows(run, HELD), _rows(run, TRAINED)
        own = [row[0] for row in (*held, *trained) if row[-1] != _OLDER]
        return cls(
            _digests([digest for digest, _, _ in held]),
            np.array([side for _, side, _ in held], dtype="U6"),
            _digests([digest for digest, _ in trained]),
            _digests(own),
        )


def _rows(run: RunDir, name: str) -> list[tuple[str, ...]]:
    """The parts of a list's lines."""
    try:
        found = [_LINES[name].fullmatch(line) for line in read_text(run.path / name, most=_MOST).split("\n") if line]
    except (OSError, ValueError) as error:
        raise CikdError(f"{run.path / name} cannot be read: {error}", hint=COPY_AGAIN) from None
    if name not in run.record.images or not all(found):
        raise CikdError(f"{run.path / name} is damaged", hint=COPY_AGAIN)
    return [line.groups() for line in found if line]


def _digests(words: list[str]) -> Digests:
    return np.array(words, dtype=KIND)
