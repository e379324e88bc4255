"""Which files are images: by name, else by their first bytes; and what a file left out is called. Opens no decoder."""

import os
import re
import stat
from functools import cache
from importlib.util import find_spec


def _suffixes(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


SUFFIXES = _suffixes(
    "jpg jpeg jpe jfif jif mpo png apng bmp dib webp gif tif tiff pbm pgm ppm pnm pfm "
    "jp2 j2k j2c jpc jpf jpx avif avifs"
)
HEIF_SUFFIXES = _suffixes("heic heif hif heics heifs")

READ_HEIF = "pip install 'cikd[heic]'"
CONVERT = "convert them to PNG or JPEG"

_RAW = _suffixes(  # a camera's own files; most begin as TIFF does, with a thumbnail as their first page
    "3fr ari arw bay cap cr2 cr3 crw dcr dng erf fff gpr iiq k25 kdc mdc mef mos mrw nef nrw orf "
    "pef ptx raf raw rw2 rwl rwz sr2 srf srw x3f"
)
_UNREAD = _RAW | _suffixes(
    "ai bpg cur dcm dds djvu emf eps exr fit fits flif hdr icns ico j2p jng jpm jls jxl jxr mng "
    "pam pcx pdf pict ps psb psd qoi ras sgi svg svgz tga wbmp wdp wmf xbm xcf xpm"
)

_HEAD = 512  # bytes looked at
_NETPBM = re.compile(rb"P(?:[1-6](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+\s|[fF]\s+\d+\s+\d+\s+[-+.\d])")
_BITMAP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes; text may well begin with BM
_LONGEST = 8  # letters of what is taken for a suffix


_ELSE = {
    b"version https://git-lfs": "it is a pointer of Git LFS, not the image; fetch that with  git lfs pull",
    b"<!doctype html": "it is an HTML page, not an image; download it again",
    b"<html": "it is an HTML page, not an image; download it again",
    b"<?xml": "it is XML, not an image",
    b"<svg": "it is an SVG drawing; convert it to PNG",
    b"%pdf": "it is a PDF document; convert its pages to PNG",
    b"8bps": "it is a Photoshop file; convert it to PNG",
    b"\xff\x0a": "it is a JPEG XL image; convert it to PNG",
    b"\0\0\0\x0cjxl \r\n\x87\n": "it is a JPEG XL image; convert it to PNG",
}


def is_image(path: str) -> bool:
    """Whether a file is taken as an image, readable or not: by its suffix in any case, else by its first bytes.

    HEIC counts, by name or content, where pillow-heif is installed. A name with an image's suffix is not looked into.
    """
    suffix = _suffix(path)
    if suffix in SUFFIXES:
        return True
    if suffix in HEIF_SUFFIXES and reads_heif():
        return True
    format = format_of(head(path))
    if format == "HEIC":
        return reads_heif()
    return bool(format) and not (format == "TIFF" and suffix in _RAW)


def kind(path: str) -> str:
    """What a file left out is counted under: `.heic` by content, else its suffix in lower case, or `no suffix`."""
    suffix = _suffix(path)
    if suffix not in HEIF_SUFFIXES and format_of(head(path)) != "HEIC":
        return suffix or "no suffix"
    return ".heic"


def advice(kind: str) -> str:
    """How files of a kind come to be read, for what has an image's name; "" for anything else."""
    if kind in HEIF_SUFFIXES:
        return READ_HEIF
    return CONVERT if kind in _UNREAD else ""


@cache
def reads_heif() -> bool:
    """Whether pillow-heif is installed."""
    return find_spec("pillow_heif") is not None


def head(path: str) -> bytes:
    """The first bytes of a regular file; none of a pipe, which would never end, or where reading is not allowed."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return b""
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read(_HEAD)
    except (OSError, ValueError):
        return b""


def format_of(head: bytes) -> str:
    """The image format that a file's first bytes speak of, "" if none that could be read here."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return "JPEG 2000"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS:
        return "BMP"
    if head[4:8] == b"ftyp":
        return _format_of_brands(head)
    return "PNM" if _NETPBM.match(head) else ""


def what_else(head: bytes) -> str:
    """What a file is that could not be read as an image, as the end of a sentence, by its first bytes."""
    if not head:
        return "it is empty"
    format = format_of(head)
    if format:
        return f"it is {'an' if format == 'AVIF' else 'a'} {format} image that is damaged or of a rare kind"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<?xml") and b"<svg" in text:
        text = b"<svg"
    return next((name for start, name in _ELSE.items() if text.startswith(start)), "it is not an image")


def _format_of_brands(head: bytes) -> str:
    """AVIF or HEIC, which share a container with each other and with videos."""
    box = head[8 : int.from_bytes(head[:4], "big")]
    brands = {box[:4]} | {box[start : start + 4] for start in range(8, len(box) - 3, 4)}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if box[:4] in _HEIF_BRANDS else ""


_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1")


def _suffix(path: str) -> str:
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    return suffix if suffix[1:].isalnum() and len(suffix) <= 1 + _LONGEST else ""
