"""held-out.txt and trained-on.txt: which images of a folder a run kept from training, and which it learned from.

One line an image: its digest, for held-out.txt the split, and its name. What a run's parents did is in its files too,
so that they alone say what its descendants may be scored on.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from cikd_cli.data.content import Digests
from cikd_cli.data.division import TEST, TRAIN, UNUSED, VAL, Memory, Sides
from cikd_cli.data.paths import Paths
from cikd_cli.data.splits import DataSource
from cikd_cli.errors import CikdError
from cikd_cli.files import read_text, to_json
from cikd_cli.runs import RunDir

HELD, TRAINED = "held-out.txt", "trained-on.txt"
_OLDER = "(of a run before)"
_DIGITS = 32
_MOST = 2**30  # bytes
_WHOLE = "copy the run again, whole, or train it again"


def remember(runs: Sequence[RunDir]) -> Memory | None:
    """What runs did with images; None if none of them has learned from a folder.

    Raises:
        CikdError: a file of a run is missing or damaged.
    """
    found = [(run, *_read(run)) for run in runs if run.record.get("images")]
    if not found:
        return None
    held = np.concatenate([digests for _, digests, _, _ in found])
    sides = np.concatenate([splits for _, _, splits, _ in found])
    trained = np.concatenate([digests for *_, digests in found])
    held, first = np.unique(held, return_index=True)
    names = tuple(str(run.path) for run, *_ in found)
    return Memory(np.unique(trained), held, sides[first], names)


def write(run: RunDir, source: DataSource, before: Memory | None) -> None:
    """Write both files of a run that begins; a named set, which is divided as published, has none."""
    if not source.digests:
        return
    trained = source.digests.get(TRAIN, np.empty(0, dtype="S32"))
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


def _read(run: RunDir) -> tuple[Digests, Sides, Digests]:
    """What a run's files say: digests held out, why, and digests learned from."""
    held = [line.split(" ", 2) for line in _rows(run, HELD)]
    sides = [words[1] for words in held]
    if not {*sides} <= {TEST, VAL, UNUSED}:
        raise CikdError(f"{run.path / HELD} is damaged", hint=_WHOLE)
    trained = [line[:_DIGITS] for line in _rows(run, TRAINED)]
    return _digests([words[0] for words in held]), np.array(sides, dtype="U6"), _digests(trained)


def _rows(run: RunDir, name: str) -> list[str]:
    try:
        return [line for line in read_text(run.path / name, most=_MOST).split("\n") if line]
    except (OSError, ValueError) as error:
        raise CikdError(f"{run.path / name} cannot be read: {error}", hint=_WHOLE) from None


def _digests(words: list[str]) -> Digests:
    return np.array(words, dtype=f"S{_DIGITS}")
