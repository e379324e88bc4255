"""Which image is which: a digest of each file's content, made while the files are looked into."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cikd_cli.data import images
from cikd_cli.data.parallel import in_threads
from cikd_cli.data.paths import Paths
from cikd_cli.data.splits import Split
from cikd_cli.errors import CikdError

Digests: TypeAlias = NDArray[np.bytes_]  # (n,) of 32 hexadecimal digits; the first is an n if made of name and size

MOST = 200_000  # files that are all read whole, in half a minute; of more, names and sizes tell images apart
DIGITS = 32
KIND = f"S{DIGITS}"  # NumPy's type of a digest
_NAMED = b"n"


@dataclass(frozen=True)
class Seen:
    """What a look into every file of a split found.

    faults: why those that cannot be read cannot.  doubts: what is odd about the brightness of others.
    """

    digests: Digests
    faults: dict[int, CikdError]
    doubts: dict[int, str]


def look(split: Split) -> Seen:
    """Read every file whole: its digest, and whether it is an image that can be decoded (`images.look`)."""
    items = split.items
    assert isinstance(items, Paths)
    found = in_threads(lambda index: _look(items[index]), range(len(split)))
    digests = np.array([digest for digest, _ in found], dtype=KIND)
    faults = {index: word for index, (_, word) in enumerate(found) if isinstance(word, CikdError)}
    doubts = {index: word for index, (_, word) in enumerate(found) if isinstance(word, str) and word}
    return Seen(digests, faults, doubts)


def by_name(split: Split, folder: Path) -> Digests:
    """Digests of each file's name relative to `folder` and its size, where there are too many to read.

    Raises CikdError for a file that is gone.
    """
    assert isinstance(split.items, Paths)
    names, before = map(os.fspath, split.items), len(os.fspath(folder)) + 1
    return np.array([_name_digest(name, before) for name in names], dtype=KIND)


def are_named(digests: Digests) -> NDArray[np.bool_]:
    """Which digests are of names and sizes, and say nothing of contents."""
    return np.char.startswith(digests, _NAMED) if len(digests) else np.zeros(0, dtype=bool)


def ranks(digests: Digests, *, seed: int, what: str) -> NDArray[np.uint64]:
    """A number for each image, a function of (seed, what, digest) alone: images with the lowest are taken first."""
    salt = f"{seed} {what} ".encode()
    made = b"".join(hashlib.blake2b(salt + digest, digest_size=8).digest() for digest in digests.tolist())
    return np.frombuffer(made, dtype=">u8").astype(np.uint64)


def _look(item: Path) -> tuple[str, CikdError | str]:
    """A file's digest, and its fault or doubt."""
    try:
        doubt = images.look(item)
        with item.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGITS // 2)).hexdigest(), doubt
    except CikdError as error:
        return "", error
    except OSError as error:
        return "", CikdError(f"{item} cannot be read: {(error.strerror or str(error)).lower()}.")


def _name_digest(name: str, before: int) -> bytes:
    try:
        size = os.stat(name).st_size  # noqa: PTH116
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "--skip-unreadable counts such images and goes on without them"
        raise CikdError(f"{name} cannot be read: {reason}.", hint=hint) from error
    text = f"{name[before:]}\0{size}".encode(errors="surrogateescape")
    return _NAMED + hashlib.blake2b(text, digest_size=DIGITS // 2).hexdigest().encode()[1:]
