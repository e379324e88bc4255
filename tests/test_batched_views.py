"""Batched views: what `views` makes of each image, byte for byte."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cikd_cli.data import augment as single
from cikd_cli.data import batched_augment as many
from cikd_cli.data.batched import batched_views
from cikd_cli.data.views import COLUMNS, ViewLaw, crop_box, crop_boxes, uniforms, views

JITTER = (0.4, 0.4, 0.4)
FLIP, AUGMENT, ORDER = 22, 23, 27  # columns of a row of uniforms


def picture(seed: int, width: int, height: int) -> np.ndarray:
    """(H, W, 3): smooth shapes with some noise; every operation changes it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] + rng.uniform(0, 9, (2, 1, 1))
    waves = np.stack([np.sin(x / 5), np.cos(y / 7), np.sin((x + y) / 9)], axis=-1) * 100 + 120
    return (waves + rng.integers(-30, 30, waves.shape)).clip(0, 255).astype(np.uint8)


def batch(count: int, width: int, height: int) -> Tensor:
    pictures = np.stack([picture(seed, width, height) for seed in range(count)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def rows(count: int, **columns: object) -> Tensor:
    """Rows of uniforms with some columns, by number or list, set to given values."""
    table = uniforms(5, 1, count)
    for name, value in columns.items():
        table[:, {"flip": FLIP, "operation": AUGMENT, "order": ORDER}[name]] = value
    return torch.from_numpy(table)


def one_by_one(images: Tensor | list[Tensor], table: Tensor, law: ViewLaw) -> tuple[Tensor, Tensor]:
    """The students' and the teachers' views by `views`."""
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    pairs = [views(image, row, law, two=True) for image, row in zip(pictures, table.numpy(), strict=True)]
    student, teacher = (torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) for side in zip(*pairs, strict=True))
    return student, teacher


def assert_equal_to_views(images: Tensor | list[Tensor], table: Tensor, law: ViewLaw) -> None:
    for made, expected in zip(batched_views(images, table, law, two=True), one_by_one(images, table, law), strict=True):
        assert made.dtype == torch.uint8
        assert made.is_contiguous()
        assert torch.equal(made, expected)


# --- crop, resize, flip


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(32, 32), (8, 8), (60, 44), (31, 90), (100, 150), (1, 1)])
@pytest.mark.parametrize("size", [24, 32, 97])
def test_resized_crops_and_flips_are_pillows(shape: tuple[int, int], size: int, interpolation: str) -> None:
    law = ViewLaw(size, crop_scale=(0.08, 1.0), interpolation=interpolation)  # type: ignore[arg-type]
    assert_equal_to_views(batch(24, *shape), rows(24), law)


@pytest.mark.parametrize("pixels", [0, 255])
def test_black_stays_black_and_white_stays_white(pixels: int) -> None:
    images = torch.full((8, 3, 30, 30), pixels, dtype=torch.uint8)
    assert (batched_views(images, rows(8), ViewLaw(32), two=False)[0] == pixels).all()


def test_overshoot_is_clipped_after_each_pass() -> None:
    hard = (torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8) * 255
    assert_equal_to_views(hard, rows(16), ViewLaw(56, crop_scale=(0.1, 1.0)))


def test_pillows_vertical_pass_first_is_followed_for_tall_crops() -> None:
    law = ViewLaw(24, crop_scale=(0.9, 1.0), flip=0.5)
    for wide, high in ((40, 200), (200, 40)):
        assert_equal_to_views(batch(6, wide, high), rows(6), law)


def test_images_of_differing_sizes_come_as_a_list() -> None:
    images = [torch.from_numpy(picture(i, 20 + 7 * i, 70 - 5 * i)).permute(2, 0, 1) for i in range(12)]
    assert_equal_to_views(images, rows(12), ViewLaw(28, jitter=JITTER))


def test_the_flip_has_the_laws_probability() -> None:
    images, table = batch(4, 32, 32), rows(4, flip=[0.29, 0.3, 0.31, 0.0])
    plain = batched_views(images, table, ViewLaw(32, flip=0.0), two=False)[0]
    made = batched_views(images, table, ViewLaw(32, flip=0.3), two=False)[0]
    assert [torch.equal(a, b) for a, b in zip(made, plain, strict=True)] == [False, True, True, False]
    assert torch.equal(made[0], plain[0].flip(2))


@pytest.mark.parametrize("scale", [(0.2, 1.0), (2.0, 3.0)])
@pytest.mark.parametrize("shape", [(32, 32), (60, 44), (300, 40), (1, 9)])
def test_crop_boxes_are_those_of_single_rows(shape: tuple[int, int], scale: tuple[float, float]) -> None:
    table = uniforms(0, 0, 3000)
    expected = [crop_box(row, shape, scale) for row in table.tolist()]
    assert crop_boxes(table, np.tile(shape, (3000, 1)), scale).tolist() == [list(box) for box in expected]


# --- two views


def test_both_views_share_their_crop_and_flip() -> None:
    images, table = batch(16, 32, 32), rows(16)
    student, teacher = batched_views(images, table, ViewLaw(32, jitter=JITTER), two=True)
    plain, _ = batched_views(images, table, ViewLaw(32), two=False)
    assert teacher is not None
    assert torch.equal(teacher, plain)
    assert not torch.equal(student, teacher)


def test_the_student_sees_the_same_with_and_without_a_teacher() -> None:
    images, table, law = batch(16, 32, 32), rows(16), ViewLaw(32, jitter=JITTER)
    alone, none = batched_views(images, table, law, two=False)
    assert none is None
    assert torch.equal(alone, batched_views(images, table, law, two=True)[0])


# --- what a view depends on


@pytest.mark.parametrize("augment", ["none", "trivial", "affine"])
def test_permuting_the_batch_permutes_the_views(augment: str) -> None:
    images, table = batch(40, 32, 32), rows(40)
    law = ViewLaw(32, jitter=JITTER, augment=augment)  # type: ignore[arg-type]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    for made, moved in zip(
        batched_views(images, table, law, two=True),
        batched_views(images[order], table[order], law, two=True),
        strict=True,
    ):
        assert made is not None
        assert moved is not None
        assert torch.equal(made[order], moved)


def test_an_image_alone_has_the_view_it_has_in_a_batch() -> None:
    images, table, law = batch(12, 32, 32), rows(12), ViewLaw(48, jitter=JITTER)
    whole = batched_views(images, table, law, two=False)[0]
    alone = [batched_views(images[i : i + 1], table[i : i + 1], law, two=False)[0] for i in range(12)]
    assert torch.equal(whole, torch.cat(alone))


def test_images_and_rows_are_left_alone() -> None:
    images, table = batch(6, 32, 32), rows(6)
    copies = images.clone(), table.clone()
    batched_views(images, table, ViewLaw(32, jitter=JITTER, augment="trivial"), two=True)
    assert torch.equal(images, copies[0])
    assert torch.equal(table, copies[1])


@pytest.mark.parametrize("size", [32, 224])
def test_many_chunks_make_the_views_that_one_makes(size: int) -> None:
    assert_equal_to_views(batch(150 if size == 32 else 6, 32, 32), rows(150)[: 150 if size == 32 else 6], ViewLaw(size))


# --- jitter


@pytest.mark.parametrize("order", range(6))
def test_every_order_of_jitter_is_that_of_views(order: int) -> None:
    assert_equal_to_views(batch(12, 32, 32), rows(12, order=(order + 0.5) / 6), ViewLaw(32, jitter=(0.4, 0.3, 1.5)))


@pytest.mark.parametrize("jitter", [(0.4, 0.0, 0.0), (0.0, 0.4, 0.0), (0.0, 0.0, 0.4), (1.0, 1.0, 1.0)])
def test_every_strength_of_jitter_is_that_of_views(jitter: tuple[float, float, float]) -> None:
    assert_equal_to_views(batch(24, 32, 32), rows(24), ViewLaw(32, jitter=jitter))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
def test_every_blend_is_pillows(name: str) -> None:
    factors, image = [0.0, 0.01, 0.37, 0.6, 0.999, 1.0, 1.2, 1.99], picture(3, 41, 28)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float().repeat(len(factors), 1, 1, 1)
    made = getattr(many, name)(pixels, torch.tensor(factors).view(-1, 1, 1, 1))
    for factor, view in zip(factors, made, strict=True):
        expected = np.asarray(getattr(single, name)(Image.fromarray(image), factor))
        assert np.array_equal(view.permute(1, 2, 0).numpy(), expected)


# --- TrivialAugment, affine


@pytest.mark.parametrize("shape", [(32, 32), (41, 28), (2, 2)])
@pytest.mark.parametrize("name", list(single.TRIVIAL_SPACE))
def test_every_operation_of_trivial_augment_is_pillows(name: str, shape: tuple[int, int]) -> None:
    magnitudes, signed = single.TRIVIAL_SPACE[name]
    levels = [*magnitudes, *(-value for value in magnitudes if signed)]
    image = picture(2, *shape)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float().repeat(len(levels), 1, 1, 1)
    for level, view in zip(levels, many.apply_operation(pixels, name, levels), strict=True):
        expected = np.asarray(single.apply_operation(Image.fromarray(image), name, level))
        assert np.array_equal(view.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize"])
def test_channels_of_one_or_two_levels_are_stretched_as_pillow_stretches_them(name: str) -> None:
    image = np.full((32, 32, 3), (9, 0, 255), dtype=np.uint8)
    image[:2, :, 1], image[5, 5, 2] = 17, 254
    made = many.apply_operation(torch.from_numpy(image).permute(2, 0, 1).float()[None], name, [0.0])[0]
    expected = np.asarray(single.apply_operation(Image.fromarray(image), name, 0.0))
    assert np.array_equal(made.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("size", [32, 45])
def test_trivial_augment_comes_before_flip_and_jitter(size: int) -> None:
    table = rows(56, operation=(np.arange(56) % 14 + 0.5) / 14)
    assert_equal_to_views(batch(56, 32, 32), table, ViewLaw(size, augment="trivial", jitter=JITTER))


@pytest.mark.parametrize("size", [28, 33])
def test_the_affine_jitter_is_that_of_views(size: int) -> None:
    assert_equal_to_views(batch(40, 24, 24), rows(40), ViewLaw(size, augment="affine", crop_scale=(0.8, 1.0)))


def test_an_affine_jitter_of_nothing_changes_nothing() -> None:
    table = torch.full((1, COLUMNS), 0.5, dtype=torch.float64)
    images = batch(1, 28, 28)
    law = ViewLaw(28, augment="affine", crop_scale=(1.0, 1.0), flip=0.0)
    assert torch.equal(batched_views(images, table, law, two=False)[0], images)
