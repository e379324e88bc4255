"""Pictures, in files and in bytes."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from cikd_cli.data.decode import check_readable
from cikd_cli.data.images import look, open_image
from cikd_cli.data.splits import Split

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8))
PIXELS = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encoded(format: str, image: Image.Image = PICTURE, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def read(path: Path, content: bytes) -> Image.Image:
    """What a file becomes, which what checks it lets pass."""
    path.write_bytes(content)
    look(path)
    split = Split([path], np.zeros(1, dtype=np.int64))
    assert len(check_readable(split, skip=True)) == 1
    return open_image(path)


def saved(path: Path, image: Image.Image, **settings: object) -> Path:
    image.save(path, **settings)
    return path


def photograph(path: Path, size: tuple[int, int] = (64, 48)) -> Path:
    return saved(path, Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)))


def split_of(*paths: Path) -> Split:
    return Split(list(paths), np.zeros(len(paths), dtype=np.int64))


def looked(path: Path, **settings: int) -> np.ndarray:
    look(path)  # what passes the first look is never refused later
    return np.asarray(open_image(path, **settings))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, **more: bytes) -> bytes:
    """A PNG of these rows, each with its filter's byte; more: chunks before the rows."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = {"IHDR": header, **more, "IDAT": zlib.compress(rows), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind.encode(), content) for kind, content in chunks.items())
