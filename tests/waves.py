"""A picture that every augmentation changes."""

import numpy as np
from PIL import Image

RNG = np.random.default_rng(7)


def picture(width: int, height: int) -> Image.Image:
    """Smooth shapes with some noise: every operation changes it."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5), np.cos(y / 7), np.sin((x + y) / 9)], axis=-1) * 90 + 120
    return Image.fromarray((waves + RNG.integers(-20, 20, waves.shape)).clip(0, 255).astype(np.uint8))


PICTURE = picture(60, 44)
