"""Crop, resize and flip a batch with Pillow's resampling, byte for byte, as two batched matrix products."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_RADIUS = {"bicubic": 2, "bilinear": 1}  # of the kernel, in pixels of the coarser grid
_PRECISION = 2**22  # Pillow's weights are whole multiples of 1 / this
_HALF = 2**11  # such a weight is split in two here
_CROPPED_FROM = 64  # pixels; from here on, a CPU cuts an image to its crop faster than it multiplies by zeros


def resized(
    images: Tensor | Sequence[Tensor],
    boxes: NDArray[np.int64],
    mirrored: NDArray[np.bool_],
    size: int,
    interpolation: str,
) -> Tensor:
    """(B, 3, size, size) float32, whole numbers 0..255: each image cut to its box, resized, and flipped if mirrored.

    images: (B, 3, H, W) bytes, or B tensors (3, H, W).  boxes: (B, 4) left, top, right, bottom.  mirrored: (B,).
    """
    offsets, lengths = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]  # (B, 2): across, down
    if isinstance(images, Tensor) and (images.is_cuda or max(images.shape[2:]) < _CROPPED_FROM):
        pixels = images
    else:
        pixels, offsets = _padded_crops(images, boxes), np.zeros_like(offsets)
    across = _matrices(lengths[:, 0], offsets[:, 0], mirrored, pixels.shape[3], size, interpolation, pixels.device)
    down = _matrices(lengths[:, 1], offsets[:, 1], None, pixels.shape[2], size, interpolation, pixels.device)
    excess = lengths - size
    vertical_first = (excess[:, 1] > 0) & (excess[:, 1] > 2 * excess[:, 0])  # as in Pillow's ImagingResampleInner
    if not vertical_first.any():
        return _two_passes(pixels, across, down)
    made = pixels.new_empty(len(pixels), 3, size, size, dtype=torch.float32)
    for turned in np.unique(vertical_first).tolist():
        some = torch.from_numpy(np.flatnonzero(vertical_first == turned)).to(pixels.device)
        if turned:
            made[some] = _two_passes(pixels[some].transpose(2, 3), down[some], across[some]).transpose(2, 3)
        else:
            made[some] = _two_passes(pixels[some], across[some], down[some])
    return made


def _padded_crops(images: Tensor | Sequence[Tensor], boxes: NDArray[np.int64]) -> Tensor:
    """(B, 3, h, w) bytes: each image cut to its box, zeros to the right and below where others are larger."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).max(axis=0).tolist()
    padded = images[0].new_zeros(len(images), 3, height, width)
    for place, image, (left, top, right, bottom) in zip(padded, images, boxes.tolist(), strict=True):
        place[:, : bottom - top, : right - left] = image[:, top:bottom, left:right]
    return padded


def _two_passes(pixels: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Bytes (B, 3, H, W) resampled across, then down, rounded to bytes after each: (B, 3, S, S) float32.

    across: (B, 2 S, W), down: (B, 2 S, H), of `_matrices`.
    """
    count, _, height, width = pixels.shape
    size = across.shape[1] // 2
    # (B, H, 3, W): in this order both products work on one block an image, all channels at once
    lines = pixels.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)
    sums = torch.bmm(lines.view(count, 3 * height, width), across.transpose(1, 2))
    lines = _rounded(sums[..., :size], sums[..., size:])  # (B, H 3, S)
    sums = torch.bmm(down, lines.view(count, height, 3 * size))
    coarse, fine = sums.view(count, 2, size, 3, size).transpose(2, 3).unbind(1)
    return _rounded(coarse, fine)


def _rounded(coarse: Tensor, fine: Tensor) -> Tensor:
    """clip(floor(coarse + fine / _HALF + 0.5)), exact although that sum has too many bits for float32: contiguous."""
    made = torch.empty(coarse.shape, device=coarse.device)
    return torch.add(coarse, fine.floor_(), alpha=1 / _HALF, out=made).add_(0.5).floor_().clamp_(0, 255)


def _matrices(
    lengths: NDArray[np.int64],
    offsets: NDArray[np.int64],
    mirrored: NDArray[np.bool_] | None,
    extent: int,
    size: int,
    interpolation: str,
    device: torch.device,
) -> Tensor:
    """(B, 2 size, extent) float32: weights that resize `length` pixels from `offset` on to `size` pixels.

    Rows 0..size-1 are the coarse halves of the weights, the others the fine halves, as in `_taps`.
    """
    first, halves = _taps(1 << (int(lengths.max()) - 1).bit_length(), size, _RADIUS[interpolation], device)
    chosen = torch.from_numpy(lengths).to(device)
    first, halves = first.index_select(0, chosen), halves.index_select(0, chosen)
    if mirrored is not None:
        flags = torch.from_numpy(mirrored).to(device)
        first = torch.where(flags.view(-1, 1), first.flip(1), first)
        halves = torch.where(flags.view(-1, 1, 1, 1), halves.flip(2), halves)
    first = first + torch.from_numpy(offsets).to(device).view(-1, 1)
    columns = first.unsqueeze(2) + torch.arange(halves.shape[3], device=device)
    columns.clamp_(max=extent - 1)  # those beyond the crop have weight 0
    made = torch.zeros(len(lengths), 2, size, extent, device=device)
    return made.scatter_add_(3, columns.unsqueeze(1).expand(halves.shape), halves).view(-1, 2 * size, extent)


@lru_cache(maxsize=16)
def _taps(longest: int, size: int, radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pillow's weights (precompute_coeffs in Resample.c) from every length 0..longest to `size` pixels.

    Returns the first source pixel of every result, (longest + 1, size), and the weights from there on in two halves,
    (longest + 1, 2, size, taps): weight = coarse + fine / _HALF. The halves are so short that a product of either with
    bytes is exact in float32, also in TF32, and in whatever order it is summed.
    """
    lengths = torch.arange(longest + 1, device=device).clamp_(min=1).view(-1, 1, 1)
    scale = lengths.to(torch.float64) / size
    stretch = scale.clamp(min=1.0)  # a kernel wider than the source's pixels averages them: no aliasing
    centre = (torch.arange(size, device=device).view(-1, 1) + 0.5) * scale
    first = (centre - radius * stretch + 0.5).to(torch.int64).clamp_(min=0)
    last = torch.minimum((centre + radius * stretch + 0.5).to(torch.int64), lengths)
    source = first + torch.arange(math.ceil(radius * max(1.0, longest / size)) * 2 + 1, device=device)
    weights = _kernel((source - centre + 0.5) * (1.0 / stretch), radius).masked_fill_(source >= last, 0.0)
    weights = (weights / weights.sum(dim=2, keepdim=True) * _PRECISION).round_()
    coarse = (weights / _HALF).round_()
    halves = torch.stack([coarse, weights - coarse * _HALF], dim=1) / _HALF
    return first.squeeze(2), halves.to(torch.float32)


def _kernel(distance: Tensor, radius: int) -> Tensor:
    """Pillow's triangle (radius 1) or cubic convolution with a = -0.5 (radius 2)."""
    x = distance.abs()
    if radius == 1:
        return (1.0 - x).clamp_(min=0.0)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))
