"""Splits: images with their labels, how train is divided, and the fingerprint that tells data sets apart."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cikd_cli.data.images import open_image
from cikd_cli.data.paths import Paths
from cikd_cli.errors import CikdError
from cikd_cli.text import listed

Items = Sequence[Path | Image.Image] | Paths | NDArray[np.uint8]
Labels = NDArray[np.int64]
Indices = NDArray[np.int64]

UNLABELLED = -1
TEST_SHARE = 0.2  # of a data set that comes without a test split


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels.

    items: paths (of a folder packed, as `Paths`), Pillow images, or one array (n, H, W, 3) of bytes.
    labels: (n,) int64; -1 where the image has none.
    """

    items: Items
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """One image: RGB, 8 bit, upright. Raises CikdError if its file cannot be read."""
        item = self.items[index]
        if isinstance(item, Path):
            return open_image(item)
        if isinstance(item, Image.Image):
            return item.convert("RGB")
        return Image.fromarray(item)

    def take(self, indices: Indices) -> "Split":
        """The split of these images, in this order."""
        if isinstance(self.items, np.ndarray):
            return Split(self.items[indices], self.labels[indices])
        if isinstance(self.items, Paths):
            return Split(self.items.take(indices), self.labels[indices])
        return Split([self.items[index] for index in indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class Contents:
    """What a data set holds on disk; `split` says in words how it is divided."""

    classes: tuple[str, ...]
    train: Split
    val: Split | None
    test: Split | None
    split: str


@dataclass(frozen=True, eq=False)
class DataSource(Contents):
    """A data set as the stages use it.

    name: set name, or the folder's full path.  classes: () if unlabelled.
    fingerprint: sha256 over classes and every split's labels, relative names, and contents (of more than 200,000 files
    their sizes; for arrays: their bytes).
    skipped: unreadable images left out.  looked_into: images whose files were checked at the start.
    unused: training images that a fraction leaves out.  digests: of a folder's images, by split (see `content`).
    facts: (label, text) rows for the header: what was left out, not read, copied, or changed since other runs.
    """

    name: str
    fingerprint: str
    skipped: int
    looked_into: int
    unused: Split | None = None
    digests: Mapping[str, NDArray[np.bytes_]] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = ()


def hold_out(split: Split, share: float, *, seed: int, classes: Sequence[str]) -> tuple[Split, Split]:
    """Cut a split in two, (rest, held), stratified and seeded, both in the original order.

    The cut is scikit-learn's; every class keeps at least one image on either side. Raises CikdError when a class has
    fewer than two images.
    """
    labels, counts = np.unique(split.labels, return_counts=True)
    single = [classes[label] if classes else "(unlabelled)" for label in labels[counts < 2]]
    if single:
        raise CikdError(
            f"A share of {share:g} cannot be held out: only one image in class {listed(single)}.",
            hint="add images to the class, or give the data a split of its own: DIR/train/<class> and DIR/test/<class>",
        )
    size = min(max(math.ceil(share * len(split)), len(labels)), len(split) - len(labels))
    from sklearn.model_selection import train_test_split  # slow to load, and folders are divided without it

    _, held = train_test_split(np.arange(len(split)), test_size=size, random_state=seed % 2**32, stratify=split.labels)
    is_held = np.zeros(len(split), dtype=bool)
    is_held[held] = True
    for label in labels:  # large and small classes together: rounding can leave a small one on one side only
        members = np.flatnonzero(split.labels == label)
        if is_held[members].all() or not is_held[members].any():
            is_held[members[0]] = not is_held[members[0]]
    return split.take(np.flatnonzero(~is_held)), split.take(np.flatnonzero(is_held))


def subset(split: Split, fraction: float, *, seed: int) -> Split:
    """A stratified share of a split, at least one image a class; a smaller share lies inside every larger one."""
    chosen: list[Indices] = []
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        order = np.argsort(np.random.default_rng((seed, int(label) + 1)).random(len(members)), kind="stable")
        count = max(1, math.ceil(fraction * len(members) - 1e-9))  # 1e-9: 0.7 * 10 is 7.000000000000001
        chosen.append(members[order[:count]])
    return split.take(np.sort(np.concatenate(chosen)))


def fingerprint(
    classes: Sequence[str],
    splits: Sequence[Split | None],
    *,
    root: Path,
    digests: Sequence[NDArray[np.bytes_] | None] | None = None,
) -> str:
    """Hexadecimal sha256; names are relative to `root`, so a moved data set keeps its fingerprint.

    digests: of each split's files; without them the files' sizes stand for their content.
    """
    digest = hashlib.sha256("\0".join(classes).encode())
    for split, contents in zip(splits, digests or [None] * len(splits), strict=True):
        if split is None:
            digest.update(b"none")
            continue
        digest.update(f"split {len(split)}".encode())
        digest.update(split.labels.astype("<i8").tobytes())
        if isinstance(split.items, np.ndarray):
            digest.update(str(split.items.shape).encode())
            digest.update(np.ascontiguousarray(split.items).reshape(-1).data)
        elif isinstance(split.items, Paths):
            base = split.items.root
            before = base.relative_to(root) if base.is_relative_to(root) else base
            digest.update(f"{before.as_posix()}\0".encode(errors="surrogateescape"))
            for name in split.items.names():
                size = b"" if contents is not None else str(os.stat(f"{base}/{name}").st_size).encode()  # noqa: PTH116
                digest.update(name.encode(errors="surrogateescape") + b"\0" + size + b"\0")
            if contents is not None:
                digest.update(contents.tobytes())
        else:
            for item in split.items:
                digest.update(_identity(item, root))
    return digest.hexdigest()


def _identity(item: Path | Image.Image, root: Path) -> bytes:
    if isinstance(item, Path):
        name = item.relative_to(root) if item.is_relative_to(root) else item
        return f"{name.as_posix()}\0{item.stat().st_size}\0".encode(errors="surrogateescape")
    return item.tobytes()
