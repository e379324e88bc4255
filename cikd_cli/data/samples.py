"""Stored samples as 8-bit RGB on white: by the range that the file declares, else by what they can only mean."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from cikd_cli.data.containers import Container

_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_RANGES = ((340, 341), (280, 281))  # SMinSampleValue and SMaxSampleValue, MinSampleValue and MaxSampleValue
_FULL = 65535
_BLACK = 4095  # the largest value of 12 bits; read as 16 bits it comes out as 15 of 255, nearly black
_DARK = 16383  # of 14 bits; 63 of 255
_AT_ONCE = 2**22  # pixels: what is worked out in floats is four times as large as the image
_OVERSHOOT = 0.05  # of their range by which floats may leave it, as those of resampled images do


@dataclass(frozen=True)
class Samples:
    """What a file says of its samples: their range (None: nothing), 0 means white, colours of 16 bits a channel."""

    low: float | None = None
    high: float | None = None
    white_is_zero: bool = False
    wide: bool = False
    significant: int = 0


def declared(image: ImageFile, container: Container) -> Samples:
    """What the file of an opened, not yet loaded image says of its samples."""
    if isinstance(image, TiffImageFile):
        bits = number(image, _BITS, max)
        ranges = [(number(image, low, min), number(image, high, max)) for low, high in _RANGES]
        if bits and bits < 16:  # 12 bits, which Pillow leaves as they are
            ranges.append((0, 2**bits - 1))
        low, high = next(((low, high) for low, high in ranges if high is not None), (None, None))
        inverted = image.mode.startswith(("I", "F")) and number(image, _PHOTOMETRIC, max) == 0
        return Samples(low, high, inverted, bits == 16)
    if image.format == "PPM" and image.mode == "I":
        scaled = image.tile[0].codec_name != "raw" and image.tile[0].args[-1] != _FULL  # type: ignore[index]
        return Samples(0, _FULL) if scaled else Samples()
    if image.format == "PNG" and image.mode != "P":
        _scale_key(image, container.depth)
    return Samples(wide=container.depth == 16, significant=container.significant)


def _scale_key(image: ImageFile, depth: int) -> None:
    """Give the one transparent value of a PNG the depth to which Pillow brings its samples."""
    key = image.info.get("transparency")
    if isinstance(key, int) and depth in (2, 4):
        image.info["transparency"] = key * 255 // (2**depth - 1)
    elif isinstance(key, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def to_rgb(image: Image.Image, samples: Samples) -> tuple[Image.Image, str]:
    """The image as 8-bit RGB, what is transparent in it on white, and a doubt in words about its brightness, or "".

    Raises ValueError with the range found where nothing says how it maps to 8 bits.
    """
    if image.mode.startswith(("I", "F")):
        grey, doubt = _grey(image, samples)
        return Image.fromarray(grey).convert("RGB"), doubt
    image = _on_white(image)
    return image, _doubt_of_colours(image) if samples.wide else ""


def number(image: TiffImageFile, tag: int, of_channels: Callable[[Iterable[float]], float] = max) -> float | None:
    """A tag as a number, one of all channels; None if it is not there or makes no sense."""
    try:
        value: Any = image.tag_v2.get(tag)
        found = float(of_channels(value) if isinstance(value, tuple) else value)
    except Exception:  # whatever Pillow finds wrong with a tag, the picture is there
        return None
    return found if math.isfinite(found) and not isinstance(value, str | bytes) else None


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


def _grey(image: Image.Image, samples: Samples) -> tuple[NDArray[np.uint8], str]:
    values = np.asarray(image)
    key = image.info.get("transparency")
    hidden = values == key if isinstance(key, int) else np.zeros((1, 1), dtype=bool)
    seen = ~hidden if values.dtype.kind != "f" else ~hidden & np.isfinite(values)
    found = values if seen.all() else values[np.broadcast_to(seen, values.shape)]
    low, high, doubt = _range(found, samples) if found.size else (0, _FULL, "")
    grey = np.empty(values.shape, dtype=np.uint8)
    step = max(1, _AT_ONCE // values.shape[1])
    for row in range(0, len(values), step):
        part = np.nan_to_num(values[row : row + step].astype(np.float32), nan=low)
        grey[row : row + step] = np.clip(np.rint((part - np.float32(low)) * np.float32(255 / (high - low))), 0, 255)
    if samples.white_is_zero:
        grey = 255 - grey
    grey[np.broadcast_to(hidden, grey.shape)] = 255
    return grey, doubt


def _range(found: NDArray[np.generic], samples: Samples) -> tuple[float, float, str]:
    """Which values are black and white, and a doubt. Raises ValueError where they could only be guessed."""
    least, most, whole = found.min().item(), found.max().item(), found.dtype.kind != "f"
    low, high = samples.low or 0, samples.high
    if high is None and samples.significant and _is_unshifted(found, samples.significant):
        low, high = 0, 2**samples.significant - 1
    if high is not None and low < high:
        margin = 0 if whole else _OVERSHOOT * (high - low)
        if low - margin <= least and most <= high + margin:
            return low, high, ""
    return _full_range(found, least, most) if whole else (0, _top_of_floats(least, most), "")


def _full_range(found: NDArray[np.generic], least: int, most: int) -> tuple[float, float, str]:
    if least < 0 or most > _FULL:
        raise ValueError(f"its values go from {least:,} to {most:,}, not from 0 to {_FULL:,}; save it as 8 bit")
    if _is_unshifted(found, 12):
        raise ValueError(_black(most))
    return 0, _FULL, _dark(most) if _is_unshifted(found, 14) else ""


def _top_of_floats(least: float, most: float) -> float:
    for top, faintest in ((1, 0), (255, 16)):
        if -_OVERSHOOT * top <= least and faintest <= most <= (1 + _OVERSHOOT) * top:
            return top
    raise ValueError(
        f"its values are floats from {least:g} to {most:g}, not from 0 to 1 or from 0 to 255; save it as 8 bit"
    )


def _is_unshifted(found: NDArray[np.generic], bits: int) -> bool:
    """Whether values fit into so many bits of 16 and were not multiplied to fill them, be it from 8 bits."""
    return bool(found.max() < 2**bits and (found % 2 ** (16 - bits)).any() and (found % 257).any())


def _doubt_of_colours(image: Image.Image) -> str:
    """Of colours of 16 bits, of which Pillow keeps the upper 8."""
    most = max(high for _, high in image.getextrema())  # type: ignore[misc]
    if 0 < most <= _BLACK >> 8:
        raise ValueError(_black(most << 8 | 255))
    return _dark(most << 8 | 255) if 0 < most <= _DARK >> 8 else ""


def _black(most: int) -> str:
    return f"its values end at {most:,} of {_FULL:,} and would come out black; save it as 8 bit"


def _dark(most: int) -> str:
    return f"its values end at {most:,} of {_FULL:,}"
