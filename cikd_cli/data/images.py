"""Image files: whatever Pillow reads safely, as upright 8-bit RGB on white."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError, features
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from cikd_cli.data.containers import Container, unwrap
from cikd_cli.data.formats import READ_HEIF, format_of, head, reads_heif, what_else
from cikd_cli.data.orientation import TAG, orientation
from cikd_cli.data.samples import Samples, declared, number, to_rgb
from cikd_cli.errors import CikdError

MOST_PIXELS = 2**26  # 8,192 squared. Decoded, with the copies on the way to 8-bit RGB, under 1 GB
MOST_PIXELS_OF = {"JPEG2000": 2**25}  # its decoder takes 16 bytes a pixel, beside the image

# Pillow knows more kinds, among them PostScript, for which it starts another program.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")

_OPTIONAL = {"AVIF": "avif", "WebP": "webp"}  # what Pillow may be built without: our name and its own

_JPEG_END = b"\xff\xd9"
_JPEG_TAIL = 64  # bytes in which the end marker is looked for


def open_image(path: Path, *, short_side: int = 0) -> Image.Image:
    """The image in a file: RGB, 8 bit, on white, turned as its EXIF data says, first frame or page.

    short_side > 0 reduces it until its shorter side has that many pixels; a smaller image stays as it is.
    Samples of more than 8 bits are read by the range that the file declares (TIFF's tags, PNG's sBIT, PNM's largest
    value), else greys of 16 bits are divided by 257, floats in [0, 1] multiplied by 255, floats in 0..255 rounded.
    Raises CikdError that names the file when it cannot be decoded, or has other values than these.
    """
    with pillow_silenced():
        return decode(path, short_side=short_side)


def decode(path: Path, *, short_side: int = 0) -> Image.Image:
    """`open_image` for threads: call it inside `pillow_silenced`, which is not safe to enter from several."""
    with _naming(path), _opened(path) as image:
        return reduce(image.rgb(short_side)[0], short_side)


def look(path: Path) -> str:
    """A doubt about the brightness of a file's image, in words, or "".

    Raises CikdError if the file is empty, cut off, no image, or none whose values have a meaning.
    Far cheaper than decoding (see `decode`) for JPEG, PNG of 8 bits, and nothing else.
    """
    with _naming(path), _opened(path) as image:
        if image.file.format == "PNG" and image.container.depth <= 8:
            image.file.verify()  # every chunk's checksum
        elif image.file.format != "JPEG" or not _has_jpeg_end(path):
            return image.rgb()[1]
    return ""


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


@dataclass(frozen=True)
class _Opened:
    """An image whose size is known and bearable, no pixel decoded yet."""

    file: ImageFile
    container: Container
    samples: Samples

    def rgb(self, short_side: int = 0) -> tuple[Image.Image, str]:
        """Upright, 8 bit, and a doubt or ""; a JPEG perhaps smaller already, but no smaller than asked for."""
        if short_side and self.file.format == "JPEG":
            self.file.draft("RGB", (2 * short_side, 2 * short_side))  # twice as large, as Pillow's `thumbnail` asks too
        ImageOps.exif_transpose(self.file, in_place=True)
        return to_rgb(self.file, self.samples)


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    """The image in a regular file; a pipe would never end."""
    if not path.is_file():
        raise ValueError("it is not a file") if path.exists() else FileNotFoundError
    with path.open("rb") as file:
        container = unwrap(file, path.stat().st_size)
        with Image.open(container.source, formats=_formats(container.kind)) as image:
            most = MOST_PIXELS_OF.get(image.format or "", MOST_PIXELS)
            if image.width * image.height > most:
                raise ValueError(f"it has more than {most:,} pixels")
            _state_orientation(image, container)
            yield _Opened(image, container, declared(image, container))


def _formats(kind: str) -> tuple[str, ...]:
    if kind != "HEIC":
        return FORMATS
    if not reads_heif():
        raise ValueError(f"it is a HEIC image, for which there is an extra: {READ_HEIF}")
    _register_heif()
    return ("HEIF",)


@cache
def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


def _state_orientation(image: ImageFile, container: Container) -> None:
    """Put the orientation in the place of all that Pillow would read of the metadata, of which one part may be broken.

    So it is read once, here, and what is checked is what is used.
    """
    metadata = Image.Exif()
    metadata[TAG] = _orientation(image, container)
    for name in ("exif", "xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)
    image.getexif = lambda: metadata  # type: ignore[method-assign]


def _orientation(image: ImageFile, container: Container) -> int:
    if image.format in ("JPEG", "PNG"):
        return orientation(container.exif, container.xmp)
    if image.format == "HEIF":  # its decoder has turned it already
        return 1
    exif, xmp = (block if isinstance(block := image.info.get(name), bytes) else b"" for name in ("exif", "xmp"))
    if image.format == "AVIF":  # Pillow writes the container's orientation into the EXIF block
        return orientation(exif)
    stated = number(image, TAG) if isinstance(image, TiffImageFile) else None
    return int(stated) if stated and 1 <= stated <= 8 else orientation(exif, xmp)


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
        start = head(str(path))
        needed = _OPTIONAL.get(format_of(start))
        if needed and not features.check(needed):
            return f"it is of the kind {format_of(start)}, for which the installed Pillow was not built"
        return what_else(start)
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MOST_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).strip().rstrip(".") or "it is damaged"
