"""TrivialAugmentWide and the light affine jitter are torchvision's."""

import numpy as np
import pytest
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv
from torchvision.transforms.autoaugment import TrivialAugmentWide, _apply_op
from waves import PICTURE, picture

from cikd_cli.data.augment import TRIVIAL_SPACE, affine, apply_operation, trivial
from cikd_cli.data.views import uniforms

# --- TrivialAugmentWide


def test_the_space_is_torchvisions() -> None:
    theirs = TrivialAugmentWide()._augmentation_space(31)
    assert list(TRIVIAL_SPACE) == list(theirs)
    for name, (magnitudes, signed) in theirs.items():
        assert TRIVIAL_SPACE[name][0] == tuple(float(value) for value in magnitudes.reshape(-1))
        assert TRIVIAL_SPACE[name][1] == signed


@pytest.mark.parametrize("size", [(32, 32), (41, 28)])
@pytest.mark.parametrize("name", list(TRIVIAL_SPACE))
def test_each_operation_is_torchvisions_pixel_for_pixel(name: str, size: tuple[int, int]) -> None:
    image = picture(*size)
    magnitudes, signed = TRIVIAL_SPACE[name]
    for magnitude in [*magnitudes, *(-value for value in magnitudes if signed)]:
        expected = _apply_op(image, name, magnitude, InterpolationMode.NEAREST, None)
        assert np.array_equal(np.asarray(apply_operation(image, name, magnitude)), np.asarray(expected))


def test_every_operation_strength_and_sign_is_drawn() -> None:
    made = {np.asarray(trivial(PICTURE, (index + 0.5) / 14, 0.9, 0.9)).tobytes() for index in range(14)}
    assert len(made) == 14
    left, right = (np.asarray(trivial(PICTURE, 3.5 / 14, 0.9, sign)) for sign in (0.49, 0.5))
    assert (left[:, -1] == 0).all()
    assert (right[:, 0] == 0).all()


# --- light affine jitter


def test_the_affine_jitter_is_torchvisions_affine() -> None:
    for angle, right, down, scale in uniforms(0, 0, 10)[:, :4].tolist():
        shift = [0.1 * 60 * (2 * right - 1), 0.1 * 44 * (2 * down - 1)]
        expected = tv.affine(
            PICTURE, 10 * (2 * angle - 1), shift, 0.9 + 0.2 * scale, [0.0, 0.0], InterpolationMode.BILINEAR
        )
        gap = np.abs(np.asarray(affine(PICTURE, angle, right, down, scale)).astype(int) - np.asarray(expected))
        assert gap.max() <= 1


def test_the_middle_of_the_affine_jitter_changes_nothing() -> None:
    assert np.array_equal(np.asarray(affine(PICTURE, 0.5, 0.5, 0.5, 0.5)), np.asarray(PICTURE))
