"""Image files: whatever Pillow reads, as upright 8-bit RGB."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from cikd_cli.errors import CikdError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"})

MOST_PIXELS = 2**26  # 8,192 squared. Decoded, with the copies on the way to 8-bit RGB, under 1 GB

# Pillow knows more kinds, among them PostScript, for which it starts another program.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")

_JPEG_END = b"\xff\xd9"
_JPEG_TAIL = 64  # bytes in which the end marker is looked for


def open_image(path: Path, *, short_side: int = 0) -> Image.Image:
    """The image in a file: RGB, 8 bit, turned as its EXIF data says, first frame.

    short_side > 0 reduces it until its shorter side has that many pixels; a smaller image stays as it is.
    16-bit greys are divided by 257; floats in [0, 1] are multiplied by 255, other floats clipped to 0..255.
    Alpha is dropped. Raises CikdError that names the file when it cannot be decoded.
    """
    with pillow_silenced():
        return decode(path, short_side=short_side)


def decode(path: Path, *, short_side: int = 0) -> Image.Image:
    """`open_image` for threads: call it inside `pillow_silenced`, which is not safe to enter from several."""
    with _naming(path), _opened(path) as image:
        if short_side:
            image.draft("RGB", (2 * short_side, 2 * short_side))  # twice as large: Pillow's own gap for thumbnails
        ImageOps.exif_transpose(image, in_place=True)
        return reduce(_rgb(image), short_side)


def probe(path: Path) -> None:
    """Raise CikdError if the file is empty, cut off or no image; far cheaper than decoding it (see `decode`)."""
    with _naming(path), _opened(path) as image:
        if image.format == "PNG":
            image.verify()  # every chunk's checksum
        elif image.format != "JPEG" or not _has_jpeg_end(path):
            image.load()


def reduce(image: Image.Image, short_side: int) -> Image.Image:
    """The image with its shorter side at most short_side pixels; 0 leaves it alone."""
    shorter = min(image.size)
    if not short_side or shorter <= short_side:
        return image
    width, height = (max(1, round(side * short_side / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)


@contextmanager
def pillow_silenced() -> Iterator[None]:
    """Keep Pillow's remarks on odd metadata, palettes and large images to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(path: Path) -> ImageFile:
    """The image in a regular file (a pipe would never end), its size known and bearable, no pixel decoded yet."""
    if not path.is_file():
        raise ValueError("it is not a file") if path.exists() else FileNotFoundError
    image = Image.open(path, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise Image.DecompressionBombError
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # I;16 and its kin; I holds 16-bit files too
        grey = (np.clip(np.asarray(image), 0, 65535).astype(np.int32) + 128) // 257
    elif image.mode == "F":
        grey = np.nan_to_num(np.asarray(image))
        grey = np.rint(grey * 255 if grey.size and grey.min() >= 0 and grey.max() <= 1 else grey)
    else:
        return image.convert("RGB")
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")


def _has_jpeg_end(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-min(_JPEG_TAIL, path.stat().st_size), os.SEEK_END)
        return _JPEG_END in file.read()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever Pillow raises into one sentence that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise CikdError(f"{path} cannot be read: {_reason(path, error)}.", hint="replace or delete the file") from error


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "it is empty" if path.stat().st_size == 0 else "it is not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MOST_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).strip().rstrip(".") or type(error).__name__
