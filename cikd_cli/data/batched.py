"""`views.py` for a whole batch on any device: the same law, and the same bytes for the same rows of uniforms."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cikd_cli.data.augment import TRIVIAL_SPACE, affine_matrix, trivial_choice
from cikd_cli.data.batched_augment import apply_operation, colour_jitter, warp_bilinear
from cikd_cli.data.batched_resize import resized
from cikd_cli.data.views import AUGMENT, FLIP, JITTER, JITTER_ORDER, ORDERS, ViewLaw, crop_boxes

_CHUNK = 200_000  # numbers in the views made at a time on a CPU: what its cache holds; a GPU makes the whole batch's

_Rows = NDArray[np.float64]  # (B, COLUMNS)


def batched_views(
    images: Tensor | Sequence[Tensor], rows: Tensor, law: ViewLaw, *, two: bool
) -> tuple[Tensor, Tensor | None]:
    """The students' views and, if `two`, the teachers': `views` of each image, byte for byte (docs/method.md).

    images: (B, 3, H, W) RGB bytes, or B tensors (3, H, W) of any sizes, all on the device that makes the views
        (a CPU or CUDA).
    rows: (B, COLUMNS) float64 from `uniforms`, best on the CPU, where they are read.
    Views are (B, 3, image_size, image_size) bytes; both are one tensor if the law has no jitter.
    Image i's depend on images[i] and rows[i] only.
    """
    drawn = rows.cpu().numpy()
    boxes = crop_boxes(drawn, _sizes(images), law.crop_scale)
    mirrored = _mirrored(drawn, law)
    order = np.argsort(_operations(drawn, law), kind="stable")  # images that are treated alike come together
    student = images[0].new_empty(len(drawn), 3, law.image_size, law.image_size)
    teacher = torch.empty_like(student) if two and any(law.jitter) else student
    limit = len(drawn) if student.is_cuda else max(1, _CHUNK // student[0].numel())
    for start in range(0, len(drawn), limit):
        chunk, place = order[start : start + limit], slice(start, start + limit)
        early = mirrored[chunk] & (law.augment == "none")  # within the resizing the flip costs nothing
        pixels = resized(_taken(images, chunk), boxes[chunk], early, law.image_size, law.interpolation)
        pixels = _augmented(pixels, drawn[chunk], law)
        if teacher is not student:
            teacher[place] = _bytes(pixels)
        student[place] = _bytes(_jittered(pixels, drawn[chunk], law.jitter))
    back = torch.from_numpy(np.argsort(order)).to(student.device)
    made = student.index_select(0, back)
    if not two:
        return made, None
    return made, made if teacher is student else teacher.index_select(0, back)


def _mirrored(drawn: _Rows, law: ViewLaw) -> NDArray[np.bool_]:
    """(B,): which images are flipped."""
    return drawn[:, FLIP] < law.flip


def _operations(drawn: _Rows, law: ViewLaw) -> NDArray[np.int64]:
    """(B,) numbers, equal for images with the same operation of TrivialAugment."""
    if law.augment == "trivial":
        return (drawn[:, AUGMENT] * len(TRIVIAL_SPACE)).astype(np.int64)
    return np.zeros(len(drawn), dtype=np.int64)


def _sizes(images: Tensor | Sequence[Tensor]) -> NDArray[np.int64]:
    """(B, 2): widths and heights."""
    if isinstance(images, Tensor):
        return np.tile(np.array(images.shape[:1:-1]), (len(images), 1))
    return np.array([image.shape[:0:-1] for image in images])


def _taken(images: Tensor | Sequence[Tensor], chosen: NDArray[np.int64]) -> Tensor | Sequence[Tensor]:
    if isinstance(images, Tensor):
        return images.index_select(0, torch.from_numpy(chosen).to(images.device))
    return [images[index] for index in chosen.tolist()]


def _augmented(pixels: Tensor, drawn: _Rows, law: ViewLaw) -> Tensor:
    """The augmenting operations, then the flips; without an operation those were made in resizing."""
    if law.augment == "none":
        return pixels
    numbers = drawn[:, AUGMENT : AUGMENT + 4].tolist()
    if law.augment == "affine":
        matrices = [affine_matrix((law.image_size, law.image_size), *row) for row in numbers]
        pixels = warp_bilinear(pixels, torch.tensor(matrices, dtype=torch.float64, device=pixels.device))
    else:
        choices = groupby((trivial_choice(*row[:3]) for row in numbers), key=itemgetter(0))
        groups = [(name, [magnitude for _, magnitude in same]) for name, same in choices]
        parts = torch.split(pixels, [len(magnitudes) for _, magnitudes in groups])
        pixels = torch.cat([apply_operation(part, *group) for part, group in zip(parts, groups, strict=True)])
    mirrored = torch.from_numpy(_mirrored(drawn, law)).to(pixels.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)


def _jittered(pixels: Tensor, drawn: _Rows, strengths: tuple[float, float, float]) -> Tensor:
    """Brightness, contrast and saturation in each image's own order, factors as in `views`; overwrites the pixels."""
    if not any(strengths):
        return pixels
    strength = np.array(strengths)
    low = np.maximum(0.0, 1.0 - strength)
    factors = low + (1.0 + strength - low) * drawn[:, JITTER : JITTER + 3]  # exactly 1 where the strength is 0
    order = np.array(ORDERS)[(drawn[:, JITTER_ORDER] * len(ORDERS)).astype(np.int64)]
    return colour_jitter(pixels, order, factors.astype(np.float32))


def _bytes(pixels: Tensor) -> Tensor:
    return pixels.to(torch.int16).to(torch.uint8)  # without the step between it takes four times as long on a CPU
