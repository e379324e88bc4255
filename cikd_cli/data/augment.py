"""Augmentations of one RGB image as functions of numbers in [0, 1); pixel for pixel what torchvision makes."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

BLACK = (0, 0, 0)

AFFINE_DEGREES = 10.0
AFFINE_SHIFT = 0.1  # share of the side
AFFINE_SCALE = (0.9, 1.1)

_BINS = 31  # TrivialAugment (Müller & Hutter 2021): 31 strengths
_ONE = (0.0,)


def _levels(low: float, high: float) -> tuple[float, ...]:
    return tuple(torch.linspace(low, high, _BINS).tolist())


# The "wide" space: name -> (magnitudes, signed).
TRIVIAL_SPACE: dict[str, tuple[tuple[float, ...], bool]] = {
    "Identity": (_ONE, False),
    "ShearX": (_levels(0.0, 0.99), True),
    "ShearY": (_levels(0.0, 0.99), True),
    "TranslateX": (_levels(0.0, 32.0), True),
    "TranslateY": (_levels(0.0, 32.0), True),
    "Rotate": (_levels(0.0, 135.0), True),
    "Brightness": (_levels(0.0, 0.99), True),
    "Color": (_levels(0.0, 0.99), True),
    "Contrast": (_levels(0.0, 0.99), True),
    "Sharpness": (_levels(0.0, 0.99), True),
    "Posterize": (tuple(8.0 - round(level / 5) for level in range(_BINS)), False),
    "Solarize": (_levels(255.0, 0.0), False),
    "AutoContrast": (_ONE, False),
    "Equalize": (_ONE, False),
}
_TRIVIAL = tuple((name, *space) for name, space in TRIVIAL_SPACE.items())


def trivial(image: Image.Image, operation: float, level: float, sign: float) -> Image.Image:
    """TrivialAugmentWide: one operation at one strength, drawn by three numbers in [0, 1)."""
    return apply_operation(image, *trivial_choice(operation, level, sign))


def trivial_choice(operation: float, level: float, sign: float) -> tuple[str, float]:
    """The operation and its magnitude that three numbers in [0, 1) draw."""
    name, magnitudes, signed = _TRIVIAL[int(operation * len(_TRIVIAL))]
    magnitude = magnitudes[int(level * len(magnitudes))]
    return name, -magnitude if signed and sign < 0.5 else magnitude


def affine(image: Image.Image, angle: float, right: float, down: float, scale: float) -> Image.Image:
    """A light rotation, shift and scaling, each drawn by a number in [0, 1); bilinear, black outside."""
    return _warp(image, affine_matrix(image.size, angle, right, down, scale), Image.Resampling.BILINEAR)


def affine_matrix(size: tuple[int, int], angle: float, right: float, down: float, scale: float) -> list[float]:
    """Output to input pixel of `affine`, row by row; size: (width, height)."""
    width, height = size
    low, high = AFFINE_SCALE
    return _inverse_affine(
        center=(width * 0.5, height * 0.5),
        angle=AFFINE_DEGREES * (2 * angle - 1),
        translate=(AFFINE_SHIFT * width * (2 * right - 1), AFFINE_SHIFT * height * (2 * down - 1)),
        scale=low + (high - low) * scale,
    )


def brightness(image: Image.Image, factor: float) -> Image.Image:
    """Blend with black; 1 keeps the image."""
    return Image.blend(Image.new("RGB", image.size), image, factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the image's mean grey; 1 keeps the image."""
    grey = np.asarray(image.convert("L"))
    mean = int(int(grey.sum(dtype=np.int64)) / grey.size + 0.5)
    return Image.blend(Image.new("RGB", image.size, (mean, mean, mean)), image, factor)


def saturation(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the grey image; 1 keeps the image."""
    return Image.blend(image.convert("L").convert("RGB"), image, factor)


def sharpness(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the smoothed image; 1 keeps the image."""
    return Image.blend(image.filter(ImageFilter.SMOOTH), image, factor)


_BLENDS = {"Brightness": brightness, "Color": saturation, "Contrast": contrast, "Sharpness": sharpness}


def apply_operation(image: Image.Image, name: str, magnitude: float) -> Image.Image:
    """One operation of TrivialAugmentWide; nearest neighbour, black outside."""
    match name:
        case "ShearX" | "ShearY" | "TranslateX" | "TranslateY":
            return _warp(image, operation_matrix(name, magnitude, image.size))
        case "Rotate":
            return image.rotate(magnitude, Image.Resampling.NEAREST, fillcolor=BLACK)
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            return _BLENDS[name](image, 1.0 + magnitude)
        case "Posterize":
            return ImageOps.posterize(image, int(magnitude))
        case "Solarize":
            return ImageOps.solarize(image, magnitude)  # type: ignore[arg-type]  # a float threshold works
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Equalize":
            return ImageOps.equalize(image)
    return image  # Identity


def operation_matrix(name: str, magnitude: float, size: tuple[int, int]) -> list[float]:
    """Output to input pixel of a shear, shift or rotation, row by row; size: (width, height)."""
    center = (size[0] * 0.5, size[1] * 0.5)
    match name:
        case "ShearX":
            return _inverse_affine(shear=(math.degrees(math.atan(magnitude)), 0.0))
        case "ShearY":
            return _inverse_affine(shear=(0.0, math.degrees(math.atan(magnitude))))
        case "TranslateX":
            return _inverse_affine(center=center, translate=(int(magnitude), 0))
        case "TranslateY":
            return _inverse_affine(center=center, translate=(0, int(magnitude)))
    return _inverse_affine(center=center, angle=-magnitude)  # Rotate, counter-clockwise


def _warp(
    image: Image.Image, matrix: Sequence[float], resample: Image.Resampling = Image.Resampling.NEAREST
) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=BLACK)


def _inverse_affine(
    *,
    center: tuple[float, float] = (0.0, 0.0),
    angle: float = 0.0,
    translate: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    shear: tuple[float, float] = (0.0, 0.0),
) -> list[float]:
    """Output to input pixel, row by row; angles in degrees. The arithmetic is torchvision's, to the last bit."""
    turn, shear_x, shear_y = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    a = math.cos(turn - shear_y) / math.cos(shear_y)
    b = -math.cos(turn - shear_y) * math.tan(shear_x) / math.cos(shear_y) - math.sin(turn)
    c = math.sin(turn - shear_y) / math.cos(shear_y)
    d = -math.sin(turn - shear_y) * math.tan(shear_x) / math.cos(shear_y) + math.cos(turn)
    matrix = [value / scale for value in (d, -b, 0.0, -c, a, 0.0)]
    x, y = -center[0] - translate[0], -center[1] - translate[1]
    matrix[2] += matrix[0] * x + matrix[1] * y
    matrix[5] += matrix[3] * x + matrix[4] * y
    matrix[2] += center[0]
    matrix[5] += center[1]
    return matrix
