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

Digests: TypeAlias = NDArray[np.bytes_]  # (n,) of 32 hexadecimal digits

MOST = 200_000  # files of a data set that are read whole; of a larger one only names and sizes are looked at
_BYTES = 16


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
    digests = np.array([digest for digest, _ in found], dtype=f"S{2 * _BYTES}")
    faults = {index: word for index, (_, word) in enumerate(found) if isinstance(word, CikdError)}
    doubts = {index: word for index, (_, word) in enumerate(found) if isinstance(word, str) and word}
    return Seen(digests, faults, doubts)


def by_name(split: Split, folder: Path) -> Digests:
    """Digests of each file's name relative to `folder` and its size, where there are too many to read."""
    assert isinstance(split.items, Paths)
    names = (os.fspath(path) for path in split.items)
    before = len(os.fspath(folder)) + 1
    made = [_digest(f"{name[before:]}\0{os.stat(name).st_size}".encode(errors="surrogateescape")) for name in names]  # noqa: PTH116
    return np.array(made, dtype=f"S{2 * _BYTES}")


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
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_BYTES)).hexdigest(), doubt
    except CikdError as error:
        return "", error
    except OSError as error:
        return "", CikdError(f"{item} cannot be read: {(error.strerror or str(error)).lower()}.")


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=_BYTES).hexdigest()
