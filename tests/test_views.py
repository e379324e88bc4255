"""Views: reproducible from (seed, epoch, index), equal to torchvision's transforms, shared crop and flip."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import ColorJitter, InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as tv
from waves import PICTURE, RNG, picture

from cikd_cli.data.augment import brightness, contrast, saturation, trivial
from cikd_cli.data.views import COLUMNS, ViewLaw, crop_box, evaluation_view, normalise, uniform_row, uniforms, views

FILTERS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}


def row(**columns: float) -> np.ndarray:
    """A row of uniforms, 0.5 but for the columns given (their numbers are the law's, written out once more)."""
    places = {"area": 0, "ratio": 1, "top": 20, "left": 21, "flip": 22, "a0": 23, "a1": 24, "a2": 25, "a3": 26}
    places |= {"order": 27, "brightness": 28, "contrast": 29, "saturation": 30}
    made = np.full(COLUMNS, 0.5)
    for name, value in columns.items():
        made[places[name]] = value
    return made


# --- the law of randomness


def test_a_row_depends_on_seed_epoch_and_index_only() -> None:
    assert np.array_equal(uniforms(3, 5, 10), uniforms(3, 5, 1000)[:10])
    assert not np.array_equal(uniforms(3, 5, 10), uniforms(3, 6, 10))
    assert not np.array_equal(uniforms(3, 5, 10), uniforms(4, 5, 10))


def test_a_row_alone_is_the_row_of_the_table() -> None:
    table = uniforms(3, 5, 50)
    assert all(np.array_equal(uniform_row(3, 5, index), table[index]) for index in range(50))


def test_the_law_has_not_changed_without_a_new_version() -> None:
    first = uniforms(0, 0, 1)[0, :3].round(6).tolist()
    assert first == [0.011547, 0.241549, 0.111426]


def test_uniforms_fill_the_unit_interval() -> None:
    table = uniforms(0, 0, 4000)
    assert table.shape == (4000, COLUMNS)
    assert table.min() >= 0
    assert table.max() < 1
    assert np.abs(table.mean(axis=0) - 0.5).max() < 0.03


def test_the_same_row_makes_the_same_view() -> None:
    law = ViewLaw(16, jitter=(0.4, 0.4, 0.4), augment="trivial")
    first, second = (views(PICTURE, uniforms(1, 2, 9)[8], law, two=True) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# --- crop and flip


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(60, 44), (31, 90), (8, 8), (1, 1)])
def test_a_crop_is_torchvisions_resized_crop(size: tuple[int, int], interpolation: str) -> None:
    image, law = picture(*size), ViewLaw(24, crop_scale=(0.08, 1.0), interpolation=interpolation, flip=0.0)
    for drawn in uniforms(0, 0, 20):
        left, top, right, bottom = crop_box(drawn.tolist(), size, (0.08, 1.0))
        expected = tv.resized_crop(image, top, left, bottom - top, right - left, [24, 24], FILTERS[interpolation])
        assert np.array_equal(views(image, drawn, law, two=False)[0], np.asarray(expected))


@pytest.mark.parametrize("size", [(100, 75), (300, 40), (40, 300)])
def test_crops_have_torchvisions_distribution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image = Image.new("RGB", size)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)], float)
    boxes = np.array([crop_box(drawn, size, (0.2, 1.0)) for drawn in uniforms(0, 0, 3000).tolist()], float)
    ours = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1)
    for quantile in (0.1, 0.5, 0.9):
        gap = np.abs(np.quantile(ours, quantile, axis=0) - np.quantile(theirs, quantile, axis=0))
        assert gap.max() <= 0.04 * max(size)


@pytest.mark.parametrize(
    ("size", "box"), [((300, 30), (130, 0, 170, 30)), ((30, 300), (0, 130, 30, 170)), ((50, 50), (0, 0, 50, 50))]
)
def test_where_no_crop_fits_the_largest_centre_crop_is_taken(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    assert crop_box([0.9] * COLUMNS, size, (2.0, 3.0)) == box


def test_every_crop_lies_inside_the_image() -> None:
    for width, height in ((1, 1), (1, 9), (9, 1), (3, 2), (64, 48)):
        for drawn in uniforms(1, 0, 200).tolist():
            left, top, right, bottom = crop_box(drawn, (width, height), (0.08, 1.0))
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


def test_the_flip_is_a_mirror_and_happens_with_its_probability() -> None:
    plain, flipped = (views(PICTURE, row(flip=value), ViewLaw(20), two=False)[0] for value in (0.5, 0.499))
    assert np.array_equal(plain[:, ::-1], flipped)
    assert np.array_equal(plain, views(PICTURE, row(flip=0.0), ViewLaw(20, flip=0.0), two=False)[0])


# --- two views (docs/method.md)


def test_the_teacher_sees_the_same_crop_and_flip_without_jitter() -> None:
    jittered, plain = ViewLaw(20, jitter=(0.4, 0.4, 0.4)), ViewLaw(20)
    for drawn in uniforms(0, 0, 10):
        student, teacher = views(PICTURE, drawn, jittered, two=True)
        assert np.array_equal(teacher, views(PICTURE, drawn, plain, two=False)[0])
        assert not np.array_equal(student, teacher)
        assert np.array_equal(student, views(PICTURE, drawn, jittered, two=False)[0])


def test_without_jitter_both_views_are_equal() -> None:
    student, teacher = views(PICTURE, row(), ViewLaw(20), two=True)
    assert np.array_equal(student, teacher)


def test_the_augmentation_comes_before_the_two_views_part() -> None:
    law = ViewLaw(20, augment="trivial", jitter=(0.4, 0.4, 0.4))
    _, teacher = views(PICTURE, row(a0=0.999), law, two=True)  # Equalize
    assert np.array_equal(teacher, views(PICTURE, row(a0=0.999), ViewLaw(20, augment="trivial"), two=False)[0])
    assert not np.array_equal(teacher, views(PICTURE, row(), ViewLaw(20), two=False)[0])


def test_one_view_has_no_teacher_view() -> None:
    assert views(PICTURE, row(), ViewLaw(20), two=False)[1] is None


def test_the_order_is_crop_then_augmentation_then_flip() -> None:
    drawn = row(area=0.4, flip=0.0, a0=0.1, a1=0.9, a2=0.9)  # ShearX does not commute with a flip
    left, top, right, bottom = crop_box(drawn.tolist(), PICTURE.size, (0.2, 1.0))
    expected = PICTURE.crop((left, top, right, bottom)).resize((20, 20), Image.Resampling.BICUBIC)
    expected = tv.hflip(trivial(expected, 0.1, 0.9, 0.9))
    made = views(PICTURE, drawn, ViewLaw(20, augment="trivial"), two=False)[0]
    assert np.array_equal(made, np.asarray(expected))


# --- colour jitter


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.37, 2.0])
def test_colour_operations_are_torchvisions(factor: float) -> None:
    for ours, theirs in (
        (brightness, tv.adjust_brightness),
        (contrast, tv.adjust_contrast),
        (saturation, tv.adjust_saturation),
    ):
        assert np.array_equal(np.asarray(ours(PICTURE, factor)), np.asarray(theirs(PICTURE, factor)))


@pytest.mark.parametrize(
    ("order", "names"),
    [(0.0, "bcs"), (0.17, "bsc"), (0.34, "cbs"), (0.51, "csb"), (0.67, "sbc"), (0.999, "scb")],
)
def test_jitter_applies_its_factors_in_the_drawn_order(order: float, names: str) -> None:
    law = ViewLaw(44, jitter=(0.4, 0.3, 1.5), flip=0.0)
    drawn = row(area=0.999, order=order, brightness=0.0, contrast=0.99, saturation=0.2)
    expected = Image.fromarray(views(PICTURE, drawn, ViewLaw(44, flip=0.0), two=False)[0])
    steps = {
        "b": lambda image: tv.adjust_brightness(image, 0.6),
        "c": lambda image: tv.adjust_contrast(image, 0.7 + 0.6 * 0.99),
        "s": lambda image: tv.adjust_saturation(image, 0.5),  # [max(0, 1 - 1.5), 2.5]
    }
    for name in names:
        expected = steps[name](expected)
    assert np.array_equal(views(PICTURE, drawn, law, two=False)[0], np.asarray(expected))


def test_jitter_has_torchvisions_distribution() -> None:
    torch.manual_seed(0)
    law, theirs = ViewLaw(8, jitter=(0.4, 0.4, 0.4), crop_scale=(1.0, 1.0)), ColorJitter(0.4, 0.4, 0.4)
    image = picture(8, 8)
    ours = [views(image, drawn, law, two=False)[0].mean() for drawn in uniforms(0, 0, 1500)]
    means = [np.asarray(theirs(image)).mean() for _ in range(1500)]
    assert np.abs(np.quantile(ours, [0.1, 0.5, 0.9]) - np.quantile(means, [0.1, 0.5, 0.9])).max() < 6


# --- evaluation


def test_evaluation_resizes_the_whole_image_without_a_crop() -> None:
    expected = tv.resize(PICTURE, [24, 24], InterpolationMode.BICUBIC)
    assert np.array_equal(evaluation_view(PICTURE, 24), np.asarray(expected))


def test_normalisation_is_per_channel_in_float32() -> None:
    images = torch.from_numpy(RNG.integers(0, 256, (2, 3, 4, 5), dtype=np.uint8))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (images.double() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    made = normalise(images, mean, std)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected.float(), rtol=1e-5, atol=1e-5)


def test_normalisation_leaves_the_bytes_alone() -> None:
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert torch.equal(normalise(images, (0.5,) * 3, (0.5,) * 3), torch.ones(1, 3, 2, 2))
    assert images.min() == 255
