"""How an image is to be turned: the one thing that is read of its metadata, of which much is broken in the wild."""

import re
import struct

TAG = 0x0112  # of EXIF and TIFF

_ENTRY = 12  # bytes: tag, type, count, value
_FORMATS = {1: "B", 3: "H", 4: "I"}  # types that hold a whole number
_XMP = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])")


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """1 to 8, as EXIF counts: what the EXIF block says, else the XMP block, else 1; broken parts are passed over."""
    stated = _XMP.search(xmp)
    return _in_exif(exif) or (int(stated[1]) if stated else 1)


def _in_exif(block: bytes) -> int:
    """The orientation in an EXIF block, which is a TIFF file's first directory; 0 if there is none to be read."""
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return 0
    start = struct.unpack_from(f"{order}I", block, 4)[0]
    if start + 2 > len(block):
        return 0
    count = struct.unpack_from(f"{order}H", block, start)[0]
    last = min(start + 2 + count * _ENTRY, len(block))
    for at in range(start + 2, last - _ENTRY + 1, _ENTRY):
        tag, kind, values = struct.unpack_from(f"{order}HHI", block, at)
        if tag == TAG and values == 1 and kind in _FORMATS:
            value = int(struct.unpack_from(f"{order}{_FORMATS[kind]}", block, at + 8)[0])
            if 1 <= value <= 8:
                return value
    return 0
