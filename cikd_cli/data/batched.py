"""`views.py` for a whole batch on any device: the same law, and the same bytes for the same rows of uniforms."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cikd_cli.data.augment import TRIVIAL_SPACE, affine_matrix, trivial_choice
from cikd_cli.data.batched_augment import apply_operation, brightness, contrast, saturation, warp_bilinear
from cikd_cli.data.batched_resize import resized
from cikd_cli.data.views import AUGMENT, FLIP, JITTER, JITTER_ORDER, ORDERS, ViewLaw, crop_boxes

_JITTERS = (brightness, contrast, saturation)
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
    mirrored, kinds = _mirrored(drawn, law), _kinds(drawn, law)
    order = np.argsort(kinds, kind="stable")  # images that are treated alike come together
    student = images[0].new_empty(len(drawn), 3, law.image_size, law.image_size)
    teacher = torch.empty_like(student) if two and any(law.jitter) else student
    limit = len(drawn) if student.is_cuda else max(1, _CHUNK // student[0].numel())
    for start in range(0, len(drawn), limit):
        chunk = order[start : start + limit]
        early = mirrored[chunk] & (law.augment == "none")  # within the resizing the flip costs nothing
        pixels = resized(_taken(images, chunk), boxes[chunk], early, law.image_size, law.interpolation)
        for first, last in _runs(kinds[chunk]):
            place, group = slice(start + first, start + last), drawn[chunk[first:last]]
            part = _augmented(pixels[first:last], group, law)
            if teacher is not student:
                teacher[place] = _bytes(part)
            student[place] = _bytes(_jittered(part, group, law.jitter))
    back = torch.from_numpy(np.argsort(order)).to(student.device)
    made = student.index_select(0, back)
    if not two:
        return made, None
    return made, made if teacher is student else teacher.index_select(0, back)


def _mirrored(drawn: _Rows, law: ViewLaw) -> NDArray[np.bool_]:
    """(B,): which images are flipped."""
    return drawn[:, FLIP] < law.flip


def _kinds(drawn: _Rows, law: ViewLaw) -> NDArray[np.int64]:
    """(B,) numbers, equal for images with the same augmenting operation and the same order of jitter."""
    kinds = np.zeros(len(drawn), dtype=np.int64)
    if law.augment == "trivial":
        kinds += (drawn[:, AUGMENT] * len(TRIVIAL_SPACE)).astype(np.int64) * len(ORDERS)
    if any(law.jitter):
        kinds += (drawn[:, JITTER_ORDER] * len(ORDERS)).astype(np.int64)
    return kinds


def _sizes(images: Tensor | Sequence[Tensor]) -> NDArray[np.int64]:
    """(B, 2): widths and heights."""
    if isinstance(images, Tensor):
        return np.tile(np.array(images.shape[:1:-1]), (len(images), 1))
    return np.array([image.shape[:0:-1] for image in images])


def _taken(images: Tensor | Sequence[Tensor], chosen: NDArray[np.int64]) -> Tensor | Sequence[Tensor]:
    if isinstance(images, Tensor):
        return images.index_select(0, torch.from_numpy(chosen).to(images.device))
    return [images[index] for index in chosen.tolist()]


def _runs(kinds: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    """First and one past the last place of every stretch of equal numbers."""
    edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
    return pairwise(edges)


def _augmented(pixels: Tensor, drawn: _Rows, law: ViewLaw) -> Tensor:
    """One augmenting operation on all images, then the flips; without an operation those were made in resizing."""
    if law.augment == "none":
        return pixels
    numbers = drawn[:, AUGMENT : AUGMENT + 4].tolist()
    if law.augment == "affine":
        matrices = [affine_matrix((law.image_size, law.image_size), *row) for row in numbers]
        pixels = warp_bilinear(pixels, torch.tensor(matrices, dtype=torch.float64, device=pixels.device))
    else:
        choices = [trivial_choice(*row[:3]) for row in numbers]
        pixels = apply_operation(pixels, choices[0][0], [magnitude for _, magnitude in choices])
    mirrored = torch.from_numpy(_mirrored(drawn, law)).to(pixels.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)


def _jittered(pixels: Tensor, drawn: _Rows, strengths: tuple[float, float, float]) -> Tensor:
    """Brightness, contrast and saturation in the images' one order, factors as in `views`; overwrites the pixels."""
    for which in ORDERS[int(drawn[0, JITTER_ORDER] * len(ORDERS))]:
        strength = strengths[which]
        if strength > 0:
            low = max(0.0, 1.0 - strength)
            factors = low + (1.0 + strength - low) * drawn[:, JITTER + which]
            factor = torch.from_numpy(factors.astype(np.float32)).to(pixels.device).view(-1, 1, 1, 1)
            pixels = _JITTERS[which](pixels, factor)
    return pixels


def _bytes(pixels: Tensor) -> Tensor:
    return pixels.to(torch.int16).to(torch.uint8)  # without the step between it takes four times as long on a CPU
