"""What makes the picture in a file, apart from its metadata, for which Pillow would refuse it where they are odd."""

import re
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader, BytesIO, RawIOBase
from itertools import accumulate
from os import SEEK_CUR, SEEK_END, SEEK_SET
from typing import IO, BinaryIO, cast

from cikd_cli.data.formats import format_of

_BLOCK = 2**20  # bytes of a block of metadata at most, compressed or not
_SEGMENTS = 10_000  # of a JPEG's head that are looked at
_CHUNKS = 1_000_000  # of a PNG that are looked at

_PALETTE = range(3, 769, 3)  # PNG: lengths of PLTE
_TRANSPARENCY = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}  # PNG: lengths of tRNS by kind of colour
_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")  # EXIF in PNG before it had a chunk of its own
_EXIF_ITEM = re.compile(rb"(infe[\2\3].{3}(?:.{4}|.{6}))Exif", re.DOTALL)  # in HEIC and AVIF


@dataclass(frozen=True)
class Container:
    """A file as Pillow gets it, and what was found beside the picture.

    kind: as `format_of` has it.  exif, xmp: of JPEG and PNG, blocks that may state the orientation.
    depth, significant: of PNG, bits of a sample, and how many of them it declares to be significant (0: it does not).
    """

    source: IO[bytes]
    kind: str
    exif: bytes = b""
    xmp: bytes = b""
    depth: int = 8
    significant: int = 0


def unwrap(file: BinaryIO, size: int) -> Container:
    """The parts of an opened file of `size` bytes that make its picture; of a kind without odd parts, all."""
    kind = format_of(file.read(512))
    if kind == "JPEG":
        return _jpeg(file, size)
    if kind == "PNG":
        return _png(file, size)
    file.seek(0)
    if kind in ("AVIF", "HEIC"):  # decoders turn it as the container says; EXIF would turn it again
        return Container(BytesIO(_EXIF_ITEM.sub(rb"\1none", file.read())), kind)
    return Container(file, kind)


def _jpeg(file: BinaryIO, size: int) -> Container:
    """Without comments and application data, but for JFIF's and Adobe's, which say what the colours are."""
    parts, exif, xmp = [(0, 2)], b"", b""
    at = 2
    for _ in range(_SEGMENTS):
        file.seek(at)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] < 2 or 0xD0 <= head[1] <= 0xDA:  # the scan, or no segment
            break
        if head[1] == 0xFF:  # padding
            at += 1
            continue
        length = 2 + int.from_bytes(head[2:], "big")
        if length < 4 or at + length > size:
            break
        if head[1] == 0xE1:
            block = file.read(length - 4)
            if block.startswith(b"Exif\0\0"):
                exif += block[6:]
            elif block.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                xmp = block
        if head[1] in (0xE0, 0xEE) or not (0xE0 <= head[1] <= 0xEF or head[1] == 0xFE):
            parts.append((at, length))
        at += length
    return Container(_joined(file, [*parts, (at, size - at)], size), "JPEG", exif, xmp)


def _png(file: BinaryIO, size: int) -> Container:
    """The chunks of the still picture only: no text, colour profile, animation, or transparency of a wrong length."""
    file.seek(8)
    header = file.read(25)
    depth, colour = (header[16], header[17]) if len(header) == 25 else (0, 0)
    parts, exif, xmp, significant = [(0, 8 + len(header))], b"", b"", 0
    at, seen_data, palette = 33, False, colour != 3
    for _ in range(_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        before = not seen_data
        seen_data |= kind == b"IDAT"
        if (
            kind in (b"IDAT", b"IEND")
            or (kind == b"PLTE" and before and length in _PALETTE)
            or (kind == b"tRNS" and before and length in _TRANSPARENCY.get(colour, ()))
        ):
            parts.append((at, min(12 + length, size - at)))
            palette |= kind == b"PLTE"
        elif kind == b"sBIT" and length:
            significant = file.read(1)[0]
        elif kind == b"eXIf":
            exif = file.read(min(length, _BLOCK))
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            key, text = _text(kind, file.read(min(length, _BLOCK)))
            if key in _PROFILES:
                exif = exif or _from_hex(text)
            elif key == b"XML:com.adobe.xmp":
                xmp = text
        at += 12 + length
        if kind == b"IEND" or at >= size:
            break
    if not palette:
        raise ValueError("it is a PNG image without its palette")
    return Container(_joined(file, parts, size), "PNG", exif, xmp, depth, significant)


def _text(kind: bytes, chunk: bytes) -> tuple[bytes, bytes]:
    """Key and text of a chunk of PNG, the text only where it may state the orientation."""
    key, _, rest = chunk.partition(b"\0")
    if key not in _PROFILES and key != b"XML:com.adobe.xmp":
        return key, b""
    if kind == b"tEXt":
        return key, rest
    if kind == b"zTXt":
        return key, _inflated(rest[1:])
    text = rest[2:].split(b"\0", 2)[-1]
    return key, _inflated(text) if rest[:1] == b"\1" else text


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _BLOCK)
    except zlib.error:
        return b""


def _from_hex(profile: bytes) -> bytes:
    """The block in a raw profile: a line of its name, one of its length, and hexadecimal digits."""
    try:
        return bytes.fromhex("".join(profile.decode("ascii").split("\n")[3:]))
    except ValueError:
        return b""


def _joined(file: BinaryIO, parts: Sequence[tuple[int, int]], size: int) -> IO[bytes]:
    """A file of these (start, length) of another; the other itself where they are all of it."""
    merged: list[tuple[int, int]] = []
    for start, length in parts:
        if merged and sum(merged[-1]) == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        elif length > 0:
            merged.append((start, length))
    if merged == [(0, size)]:
        file.seek(0)
        return file
    return cast(IO[bytes], BufferedReader(_Parts(file, merged), 2**16))


class _Parts(RawIOBase):
    """Parts of a file, one behind the other, as a file."""

    def __init__(self, file: BinaryIO, parts: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self._file, self._parts, self._at = file, parts, 0
        self._ends = list(accumulate(length for _, length in parts))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        self._at = offset + {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: self._ends[-1]}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        number = bisect_right(self._ends, self._at)
        if number == len(self._parts):
            return 0
        start, length = self._parts[number]
        inside = self._at - (self._ends[number] - length)
        self._file.seek(start + inside)
        taken = self._file.readinto(memoryview(buffer)[: length - inside])  # type: ignore[attr-defined]
        self._at += taken
        return int(taken)
