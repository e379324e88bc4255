"""`augment.py` for batches on any device: Pillow's arithmetic in float32, byte for byte.

Everywhere pixels are (B, 3, H, W) float32 holding whole numbers 0..255, in any memory layout; functions may overwrite
their pixels. Factors are (B, 1, 1, 1) float32, one an image.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cikd_cli.data.augment import operation_matrix

# Rec. 601 luma in Pillow's 16-bit fixed point; every partial sum below has at most 24 bits: exact in float32.
_RED, _GREEN, _BLUE = 19595 / 2**16, 38470 / 2**16, 7471 / 2**16
_GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with black; 1 keeps the image."""
    return pixels.mul_(factor).clamp_(max=255).floor_()


def contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with each image's mean grey; 1 keeps the image."""
    return _blend(_mean(_grey(pixels)), pixels, factor)


def saturation(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image; 1 keeps the image."""
    return _blend(_grey(pixels), pixels, factor)


def sharpness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed by a 3 x 3 kernel, 5 in the middle and 1 around; the border is not smoothed."""
    columns = pixels[..., :-2] + pixels[..., 1:-1] + pixels[..., 2:]
    total = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:] + 4 * pixels[:, :, 1:-1, 1:-1]
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = total.div_(13).add_(0.5).floor_()
    return _blend(smooth, pixels, factor)


def colour_jitter(pixels: Tensor, order: NDArray[np.int64], factors: NDArray[np.float32]) -> Tensor:
    """`brightness` (0), `contrast` (1) and `saturation` (2) of each image in its own order.

    order, factors: (B, 3); factors in the order of those numbers. Each is a blend, with black, the image's mean grey
    or its grey version, so that one pass serves images whose turns differ.
    """
    for which in order.T:
        turn = np.stack([factors[np.arange(len(which)), which], which == 1, which == 2]).astype(np.float32)
        factor, by_mean, by_grey = torch.from_numpy(turn).to(pixels.device).view(3, -1, 1, 1, 1)
        grey = _grey(pixels)
        base = by_mean * _mean(grey)
        pixels = _blend(base + grey.mul_(by_grey), pixels, factor)
    return pixels


_BLENDS = {"Brightness": brightness, "Color": saturation, "Contrast": contrast, "Sharpness": sharpness}


def apply_operation(pixels: Tensor, name: str, magnitudes: list[float]) -> Tensor:
    """One operation of TrivialAugmentWide on the whole batch, a magnitude an image."""
    if name in _GEOMETRIC:
        size = (pixels.shape[3], pixels.shape[2])
        return warp_nearest(pixels, _tensor([operation_matrix(name, value, size) for value in magnitudes], pixels))
    magnitude = _tensor(magnitudes, pixels).view(-1, 1, 1, 1)
    match name:
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            return _BLENDS[name](pixels, (1.0 + magnitude).to(torch.float32))
        case "Posterize":
            step = torch.exp2(8.0 - magnitude).to(torch.float32)  # magnitude: bits kept
            return pixels.div_(step).floor_().mul_(step)
        case "Solarize":
            return torch.where(pixels < magnitude, pixels, 255.0 - pixels)
        case "AutoContrast":
            return _auto_contrast(pixels)
        case "Equalize":
            return _equalize(pixels)
    return pixels  # Identity


def warp_nearest(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Affine warp to the nearest pixel, black outside.

    matrices: (B, 6) float64, output to input pixel, row by row.  Pillow steps in 16-bit fixed point from the centre of
    the first output pixel (ImagingTransformAffine); so does this.
    """
    a, b, c, d, e, f = matrices.unbind(1)
    corner = torch.stack([a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5])
    a, b, c, d, e, f = (corner * 65536 + 0.5).floor().to(torch.int64).view(6, -1, 1, 1).unbind()
    height, width = pixels.shape[2:]
    x = torch.arange(width, device=pixels.device)
    y = torch.arange(height, device=pixels.device).view(-1, 1)
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16  # (B, H, W)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = row.clamp_(0, height - 1).mul_(width).add_(column.clamp_(0, width - 1))
    return _gathered(pixels, place).mul_(inside.unsqueeze(1))


def warp_bilinear(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Affine warp with bilinear interpolation, black outside; matrices as in `warp_nearest`.

    float64, since Pillow rounds down: a result of 100 that comes out as 99.99999 would be one level too dark.
    """
    a, b, c, d, e, f = matrices.view(-1, 6, 1, 1).unbind(1)
    height, width = pixels.shape[2:]
    x = torch.arange(width, device=pixels.device) + 0.5
    y = torch.arange(height, device=pixels.device).view(-1, 1) + 0.5
    column, row = a * x + b * y + c, d * x + e * y + f  # (B, H, W)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    column, row = column - 0.5, row - 0.5
    left, top = column.floor(), row.floor()
    across, down = (column - left).unsqueeze(1), (row - top).unsqueeze(1)
    left, top = left.to(torch.int64), top.to(torch.int64)
    right, bottom = (left + 1).clamp_(0, width - 1), (top + 1).clamp_(0, height - 1).mul_(width)
    left, top = left.clamp_(0, width - 1), top.clamp_(0, height - 1).mul_(width)
    pixels = pixels.to(torch.float64)
    upper, lower = (
        _mixed(_gathered(pixels, line + left), _gathered(pixels, line + right), across) for line in (top, bottom)
    )
    return _mixed(upper, lower, down).floor_().mul_(inside.unsqueeze(1)).to(torch.float32)


def _auto_contrast(pixels: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of one level stays."""
    low, high = (level.to(torch.float64) for level in pixels.flatten(2).aminmax(dim=2, keepdim=True))  # (B, 3, 1)
    scale = torch.full_like(low, 255.0) / (high - low)  # `255.0 / x` would be 255 * (1 / x), off by a last bit
    levels = torch.arange(256, dtype=torch.float64, device=pixels.device)
    table = (levels * scale - low * scale).clamp_(0, 255).floor_()
    return _looked_up(torch.where(high > low, table, levels), pixels)


def _equalize(pixels: Tensor) -> Tensor:
    """Spread each channel's levels so that its histogram is even (ImageOps.equalize, in its whole numbers)."""
    values = pixels.flatten(2).to(torch.int64)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int64, device=pixels.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    below = counts.cumsum(2) - counts  # (B, 3, 256): pixels darker than each level
    step = below.gather(2, values.amax(dim=2, keepdim=True)) // 255
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255)
    levels = torch.arange(256, device=pixels.device)
    return _looked_up(torch.where(step > 0, table, levels), pixels)


def _looked_up(table: Tensor, pixels: Tensor) -> Tensor:
    """Each pixel's entry in its channel's table; table: (B, 3, 256)."""
    return table.to(torch.float32).gather(2, pixels.flatten(2).to(torch.int64)).view(pixels.shape)


def _grey(pixels: Tensor) -> Tensor:
    """Pillow's L, (B, 1, H, W): (19595 R + 38470 G + 7471 B + 0x8000) >> 16."""
    red, green, blue = pixels[:, :1], pixels[:, 1:2], pixels[:, 2:]
    return (red * _RED).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE).add_(0.5).floor_()


def _mean(grey: Tensor) -> Tensor:
    """Pillow's mean of each image, a whole number, (B, 1, 1, 1); grey: (B, 1, H, W)."""
    rows = grey.sum(dim=3, keepdim=True)  # a row's sum is exact in float32, an image's may not be
    mean = rows.sum(dim=2, keepdim=True, dtype=torch.float64) / (grey.shape[2] * grey.shape[3])
    return mean.add_(0.5).floor_().to(torch.float32)


def _blend(base: Tensor, pixels: Tensor, factor: Tensor) -> Tensor:
    """base + factor * (pixels - base), clipped and rounded down: Image.blend. In place; base broadcasts."""
    return pixels.sub_(base).mul_(factor).add_(base).clamp_(0, 255).floor_()


def _mixed(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """first + (second - first) * share, into `second`; no `lerp`, which changes its formula at 0.5."""
    return second.sub_(first).mul_(share).add_(first)


def _gathered(pixels: Tensor, place: Tensor) -> Tensor:
    """The pixels at (B, H, W) places in the flattened image, (B, 3, H, W)."""
    return pixels.flatten(2).gather(2, place.flatten(1).unsqueeze(1).expand(-1, 3, -1)).view(-1, 3, *place.shape[1:])


def _tensor(values: list[float] | list[list[float]], pixels: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=pixels.device)
