"""Class folders of noise, and what their division holds out."""

from pathlib import Path

import numpy as np
from PIL import Image

from cikd_cli.data.division import TEST, TRAIN, UNUSED, VAL, Memory
from cikd_cli.data.sources import load_source
from cikd_cli.data.splits import DataSource


def draw(folder: Path, counts: dict[str, int], *, seed: int = 0, first: int = 0) -> Path:
    """Noise, another in every file, in class folders."""
    for place, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng((seed, place))
        for number in range(first, first + count):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / name / f"{number:03d}.png")
    return folder


def load(folder: Path, **settings: object) -> DataSource:
    return load_source(str(folder), data_root="data", download=False, **settings)


def held(source: DataSource, side: str = TEST) -> set[bytes]:
    return set(source.digests[side].tolist()) if side in source.digests else set()


def memory_of(source: DataSource) -> Memory:
    sides = [side for side in (TEST, VAL, UNUSED) if side in source.digests]
    out = [source.digests[side] for side in sides]
    names = np.concatenate([np.full(len(digests), side) for side, digests in zip(sides, out, strict=True)])
    held_out = np.concatenate(out)
    return Memory(
        trained=source.digests[TRAIN],
        held=held_out,
        sides=names.astype("U6"),
        leaked=np.setdiff1d(source.digests[TRAIN], held_out),
        own=np.concatenate([source.digests[TRAIN], held_out]),
        names=("runs/t",),
    )
