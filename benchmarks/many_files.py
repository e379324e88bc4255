"""How long a folder of very many images takes to read, and how much memory: `python benchmarks/many_files.py DIR`.

DIR is filled with 1,281,000 + 50,000 JPEG files of 16 pixels in 1,000 classes, if it is not there (5 GB on disk, as a
file takes 4 KB; some minutes), and stays.
"""

import argparse
import io
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cikd_cli.console import show_output
from cikd_cli.data import content, decode, looked, sources

CLASSES, PARTS = 1000, {"train": 1281, "test": 50}


def fill(folder: Path, classes: int) -> None:
    """Make the class folders."""
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(8):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(stream, "JPEG")
        kinds.append(stream.getvalue())
    for label in range(classes):
        for part, count in PARTS.items():
            name = f"n{1440764 + 7919 * label:08d}"
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                path = folder / part / name / f"{name}_{index * 37 % 99991}.JPEG"
                path.write_bytes(kinds[(label + index) % len(kinds)])


def timed(module: Any, name: str) -> None:
    """Let a function of a module say how long it took."""
    real: Callable[..., Any] = getattr(module, name)

    def act(*given: Any, **named: Any) -> Any:
        begun = time.monotonic()
        result = real(*given, **named)
        show_output(f"{name:16} {time.monotonic() - begun:6.1f} s   {memory():,.0f} MiB at most so far")
        return result

    setattr(module, name, act)


def memory() -> float:
    """Peak of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Fill the folder if need be, and read it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, default=CLASSES)
    given = parser.parse_args()
    if not given.folder.exists():
        begun = time.monotonic()
        fill(given.folder, given.classes)
        show_output(f"files made in {time.monotonic() - begun:.0f} s")
    show_output(f"modules loaded: {memory():,.0f} MiB")
    for module, name in (
        (looked, "read_folder"),
        (looked, "check_readable"),
        (content, "look"),
        (content, "by_name"),
        (sources, "divide"),
        (sources, "fingerprint"),
    ):
        timed(module, name)
    begun = time.monotonic()
    source = sources.load_source(str(given.folder), data_root=".", download=False)
    show_output(
        f"all of it        {time.monotonic() - begun:6.1f} s, {len(source.train):,} + {len(source.test or ()):,} images"
    )
    show_output(decode.DecodedSplit(source.train, limit_mb=256).describe())


if __name__ == "__main__":
    main()
