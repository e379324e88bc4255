"""Views: what the networks see of an image, as a function of (seed, epoch, index) alone."""

import math
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cikd_cli.data.augment import affine, brightness, contrast, saturation, trivial

VERSION = 1  # of the law below: the same (seed, epoch, index) gives the same view for one version

# Which columns of a row of uniforms decide what.
_ATTEMPTS = 10
_TOP, _LEFT = 2 * _ATTEMPTS, 2 * _ATTEMPTS + 1  # before them: ten pairs (area, aspect ratio)
FLIP = _LEFT + 1
AUGMENT = FLIP + 1  # four columns
JITTER_ORDER = AUGMENT + 4
JITTER = JITTER_ORDER + 1  # three columns
COLUMNS = JITTER + 3

_RATIO = (3 / 4, 4 / 3)
_LOG_RATIO = (math.log(_RATIO[0]), math.log(_RATIO[1]))
ORDERS = tuple(permutations(range(3)))
_JITTERS = (brightness, contrast, saturation)
_RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Pixels = NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True)
class ViewLaw:
    """How a training view is made: crop, augmentation, flip, jitter, in this order.

    image_size: pixels.  crop_scale: area of the crop as a share of the image.  flip: probability.
    jitter: strengths of brightness, contrast and saturation.
    """

    image_size: int
    crop_scale: tuple[float, float] = (0.2, 1.0)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip: float = 0.5
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)
    augment: Literal["none", "trivial", "affine"] = "none"


def uniforms(seed: int, epoch: int, count: int) -> NDArray[np.float64]:
    """(count, COLUMNS) numbers in [0, 1); row i depends on (seed, epoch, i) only, not on count."""
    return philox(seed, epoch, stream=0).random((count, COLUMNS))


def uniform_row(seed: int, epoch: int, index: int) -> NDArray[np.float64]:
    """Row `index` of `uniforms`, alone: (COLUMNS,)."""
    generator = philox(seed, epoch, stream=0)
    blocks, before = divmod(index * COLUMNS, 4)  # Philox makes four numbers at a time
    generator.bit_generator.advance(blocks)  # type: ignore[attr-defined]
    return generator.random(before + COLUMNS)[before:]


def view_epoch(epoch: int, views_per_image: int) -> int:
    """The epoch whose uniforms an epoch shows: its own, or with `views_per_image` the first so many in turn."""
    return epoch % views_per_image if views_per_image else epoch


def philox(seed: int, epoch: int, *, stream: int) -> np.random.Generator:
    """Random numbers keyed by (seed, epoch); streams of one key do not overlap."""
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def views(image: Image.Image, row: NDArray[np.float64], law: ViewLaw, *, two: bool) -> tuple[Pixels, Pixels | None]:
    """The student's view and, if `two`, the teacher's: one crop and flip, jitter the student's only (docs/method.md).

    image: RGB.  row: (COLUMNS,) from `uniforms`.  Views are (image_size, image_size, 3) bytes.
    """
    drawn: list[float] = row.tolist()
    box = crop_box(drawn, image.size, law.crop_scale)
    if box != (0, 0, *image.size):
        image = image.crop(box)  # not resize(box=...): that blends in pixels from outside the crop
    image = image.resize((law.image_size, law.image_size), _RESAMPLE[law.interpolation])
    if law.augment == "trivial":
        image = trivial(image, *drawn[AUGMENT : AUGMENT + 3])
    elif law.augment == "affine":
        image = affine(image, *drawn[AUGMENT : AUGMENT + 4])
    if drawn[FLIP] < law.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    student = np.asarray(_jittered(image, drawn, law.jitter))
    if not two:
        return student, None
    return student, np.asarray(image) if any(law.jitter) else student


def evaluation_view(image: Image.Image, size: int) -> Pixels:
    """The whole image resized to size x size, aspect ratio not kept, bicubic (docs/method.md): (size, size, 3)."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Bytes (B, 3, H, W) to float32, (x / 255 - mean) / std per channel, on the images' device."""
    shift = torch.tensor(mean, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
    return images.to(torch.float32).sub_(255 * shift).div_(255 * scale)


def crop_box(drawn: list[float], size: tuple[int, int], scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop: ten tries at an area and a log-uniform ratio, else the largest centre crop.

    drawn: a row of uniforms.  size: (width, height).  Returns (left, top, right, bottom), in pixels.
    """
    width, height = size
    for attempt in range(0, 2 * _ATTEMPTS, 2):
        area = width * height * (scale[0] + (scale[1] - scale[0]) * drawn[attempt])
        ratio = math.exp(_LOG_RATIO[0] + (_LOG_RATIO[1] - _LOG_RATIO[0]) * drawn[attempt + 1])
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(drawn[_LEFT] * (width - wide + 1)), int(drawn[_TOP] * (height - high + 1))
            return left, top, left + wide, top + high
    wide = min(width, round(height * _RATIO[1]))
    high = min(height, round(width / _RATIO[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def crop_boxes(drawn: NDArray[np.float64], sizes: NDArray[np.int64], scale: tuple[float, float]) -> NDArray[np.int64]:
    """`crop_box` of every row, (B, 4): drawn is (B, COLUMNS), sizes (B, 2)."""
    width, height = sizes[:, :1], sizes[:, 1:]
    area = width * height * (scale[0] + (scale[1] - scale[0]) * drawn[:, 0:_TOP:2])  # (B, attempts)
    ratio = np.exp(_LOG_RATIO[0] + (_LOG_RATIO[1] - _LOG_RATIO[0]) * drawn[:, 1:_TOP:2])
    wide, high = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    first = (np.arange(len(drawn)), fits.argmax(axis=1))
    extent = np.stack([wide[first], high[first]], axis=1)
    corner = (drawn[:, [_LEFT, _TOP]] * (sizes - extent + 1)).astype(np.int64)
    boxes = np.concatenate([corner, corner + extent.astype(np.int64)], axis=1)
    for index in np.flatnonzero(~fits.any(axis=1)).tolist():  # rare
        boxes[index] = crop_box(drawn[index].tolist(), tuple(sizes[index].tolist()), scale)
    return boxes


def _jittered(image: Image.Image, drawn: list[float], strengths: tuple[float, float, float]) -> Image.Image:
    """torchvision's ColorJitter without hue: factors uniform in [max(0, 1 - x), 1 + x], in random order."""
    for which in ORDERS[int(drawn[JITTER_ORDER] * len(ORDERS))]:
        strength = strengths[which]
        if strength > 0:
            low = max(0.0, 1.0 - strength)
            image = _JITTERS[which](image, low + (1.0 + strength - low) * drawn[JITTER + which])
    return image
