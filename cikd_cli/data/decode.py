"""Decoded images: a small set is decoded once and kept in memory, a large one is decoded as it is needed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cikd_cli.data import content
from cikd_cli.data.images import decode, look, open_image, reduce
from cikd_cli.data.parallel import in_threads
from cikd_cli.data.splits import Split
from cikd_cli.errors import CikdError

MIB = 2**20

_SAMPLE = 128  # images decoded to estimate how much memory the whole split takes
_CHUNK = 256  # images handed to the threads at a time, so that a set too large is noticed early
_SPREAD = 20_000  # files that are looked into of a split of more than `content.MOST`, evenly spread


class DecodedSplit:
    """A split whose images come as RGB, from memory if all of them fit into limit_mb MiB.

    decode_size: shorter side, in pixels, to which larger images are reduced; 0 keeps them whole.
    Raises CikdError that names a file that cannot be decoded.
    """

    def __init__(self, split: Split, *, decode_size: int = 0, limit_mb: int = 4096) -> None:
        self.split = split
        self.decode_size = decode_size
        self._arrays: NDArray[np.uint8] | list[NDArray[np.uint8]] | None = None
        self.labels = split.labels  # (n,) int64; -1 where an image has no label
        self.nbytes = 0  # of all images, decoded; an estimate where they are not kept
        if isinstance(split.items, np.ndarray) and (not decode_size or min(split.items.shape[1:3]) <= decode_size):
            self._arrays = split.items
            self.nbytes = split.items.nbytes
        else:
            self._decode_all(limit_mb * MIB)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def in_memory(self) -> bool:
        """Whether every image is kept decoded."""
        return self._arrays is not None

    def pixels(self) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        """All images, (n, H, W, 3) or a list of (H, W, 3). Raises CikdError when they are not in memory."""
        if self._arrays is None:
            raise CikdError(
                f"The {len(self):,} training images do not fit into the cache for decoded images.",
                hint=f"--set cache_mb={-(-self.nbytes // MIB)}, --set decode_size=256, or --views cpu",
            )
        return self._arrays

    def image(self, index: int) -> Image.Image:
        """One image: RGB, 8 bit, upright, reduced to decode_size."""
        if self._arrays is not None:
            return Image.fromarray(self._arrays[index])
        item = self.split.items[index]
        if isinstance(item, Path):
            return open_image(item, short_side=self.decode_size)
        return reduce(self.split.image(index), self.decode_size)

    def describe(self) -> str:
        """How the images are held, for people."""
        size = f"{self.nbytes / MIB:,.0f} MiB" if self.nbytes >= MIB else "less than 1 MiB"
        if self.in_memory:
            return f"{len(self):,} images kept in memory ({size})"
        return f"{len(self):,} images decoded when needed (about {size} in memory)"

    def _decode_all(self, limit: int) -> None:
        """Fill the cache, or give up as soon as it is clear that it would not hold the split."""
        sample = np.unique(np.linspace(0, len(self) - 1, min(_SAMPLE, len(self))).astype(int)).tolist()
        sizes = [array.nbytes for array in in_threads(self._array, sample)]
        self.nbytes = round(sum(sizes) / max(1, len(sizes)) * len(self))
        if self.nbytes > limit:
            return
        arrays: list[NDArray[np.uint8]] = []
        total = 0
        for start in range(0, len(self), _CHUNK):
            arrays.extend(in_threads(self._array, range(start, min(start + _CHUNK, len(self)))))
            total += sum(array.nbytes for array in arrays[start:])
            if total > limit:
                self.nbytes = max(total, self.nbytes)
                return
        self._arrays, self.nbytes = arrays, total

    def _array(self, index: int) -> NDArray[np.uint8]:
        item = self.split.items[index]
        if isinstance(item, Path):
            return np.asarray(decode(item, short_side=self.decode_size))
        return np.asarray(reduce(self.split.image(index), self.decode_size))


def check_readable(split: Split, skip: bool) -> Split:
    """The split without its unreadable files; CikdError that names the first of them unless `skip`.

    Looks at headers, checksums and ends of the files that `looked_into` chooses, and decodes only what remains
    doubtful: a few per cent of the time that decoding takes.
    """
    items, chosen = split.items, looked_into(split, skip)
    if isinstance(items, np.ndarray):
        return split
    faults = in_threads(lambda index: _fault(items[index]), chosen.tolist())
    bad = {index: fault for index, fault in zip(chosen.tolist(), faults, strict=True) if fault}
    return split.take(readable(len(split), bad, skip)) if bad else split


def readable(count: int, bad: Mapping[int, CikdError], skip: bool) -> NDArray[np.int64]:
    """The indices below `count` that are not bad; CikdError for the first bad one unless `skip`."""
    if bad and not skip:
        more = f" So are {len(bad) - 1:,} more." if len(bad) > 1 else ""
        hint = "--skip-unreadable counts such images and goes on without them"
        raise CikdError(next(iter(bad.values())).message + more, hint=hint)
    return np.setdiff1d(np.arange(count), np.fromiter(bad, dtype=np.int64, count=len(bad)))


def looked_into(split: Split, skip: bool) -> NDArray[np.int64]:
    """The images whose files are checked at the start: all; of a large split some, unless bad ones are to be left."""
    if len(split) <= content.MOST or skip:
        return np.arange(len(split))
    return np.linspace(0, len(split) - 1, _SPREAD).astype(np.int64)


def _fault(item: Path | Image.Image) -> CikdError | None:
    try:
        if isinstance(item, Path):
            look(item)
    except CikdError as error:
        return error
    return None
