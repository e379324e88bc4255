"""Paths of many files, packed: as Python objects a million of them take a gigabyte, in every process that reads one."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Paths:
    """A sequence of paths below `root`, given and kept relative to it; any names that a file system has."""

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self.root = root
        self._text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._spans = np.stack([np.concatenate([ends[:0], [0], ends[:-1]])[: len(ends)], ends], axis=1)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Path:
        return self.root / self._name(*self._spans[index].tolist())

    def __iter__(self) -> Iterator[Path]:
        return (self.root / name for name in self.names())

    def names(self) -> Iterator[str]:
        """The paths relative to `root`."""
        return (self._name(start, end) for start, end in self._spans.tolist())

    def take(self, indices: NDArray[np.int64]) -> "Paths":
        """These of the paths, in this order; the text is shared."""
        taken = object.__new__(Paths)
        taken.root, taken._text, taken._spans = self.root, self._text, self._spans[indices]
        return taken

    def _name(self, start: int, end: int) -> str:
        return os.fsdecode(self._text[start:end].tobytes())
