"""Every kind of image becomes upright 8-bit RGB; small sets stay in memory."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from pictures import PIXELS, photograph, saved, split_of
from PIL import Image

from cikd_cli.data.decode import DecodedSplit
from cikd_cli.data.images import open_image
from cikd_cli.data.splits import Split


def pixels(path: Path) -> np.ndarray:
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


# --- kinds of images


def test_a_grey_image_gets_three_equal_channels(tmp_path: Path) -> None:
    made = pixels(saved(tmp_path / "a.png", Image.fromarray(PIXELS[..., 0])))
    assert np.array_equal(made, np.repeat(PIXELS[..., :1], 3, axis=2))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode in ("CMYK", "YCbCr") else "png"
    made = pixels(saved(tmp_path / f"a.{suffix}", Image.new("RGB", (5, 4), "white").convert(mode)))
    assert made.shape == (4, 5, 3)
    assert made.min() > 250


def test_a_cmyk_jpeg_keeps_its_colour(tmp_path: Path) -> None:
    made = pixels(saved(tmp_path / "a.jpg", Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")))
    assert np.abs(made.astype(int) - (200, 30, 40)).max() < 6


def test_a_palette_image_with_transparency_is_read_in_silence(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS).quantize(8)
    path = saved(tmp_path / "a.png", image, transparency=bytes([0, 128, 255, 255, 255, 255, 255, 255]))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        pixels(path)
    assert not heard


def test_16_bit_greys_are_scaled_to_8(tmp_path: Path) -> None:
    grey = np.array([[0, 257, 257 * 100, 65535]], dtype=np.uint16)
    for suffix in ("png", "tif"):
        made = pixels(saved(tmp_path / f"a.{suffix}", Image.fromarray(grey)))
        assert made[0, :, 0].tolist() == [0, 1, 100, 255]


def test_16_bit_big_endian_files_are_scaled_to_8(tmp_path: Path) -> None:
    header = b"P5 3 1 65535\n"
    (tmp_path / "a.ppm").write_bytes(header + np.array([0, 25700, 65535], dtype=">u2").tobytes())
    assert pixels(tmp_path / "a.ppm")[0, :, 2].tolist() == [0, 100, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_says(tmp_path: Path, orientation: int) -> None:
    corner = np.zeros((8, 16, 3), dtype=np.uint8)
    corner[:4, :4] = 255  # upright, the white corner is on top, left
    stored = {
        1: corner,
        2: corner[:, ::-1],
        3: corner[::-1, ::-1],
        4: corner[::-1],
        5: corner.transpose(1, 0, 2),
        6: np.rot90(corner, 1),
        7: corner.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(corner, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(pixels(path), corner)


def test_a_1_pixel_image_is_an_image(tmp_path: Path) -> None:
    assert pixels(saved(tmp_path / "a.png", Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert pixels(path)[0, 0].tolist() == [255, 0, 0]


# --- size


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_shorter_side_is_reduced_and_the_shape_kept(tmp_path: Path, suffix: str) -> None:
    path = photograph(tmp_path / f"a.{suffix}", (600, 300))
    assert open_image(path, short_side=50).size == (100, 50)


def test_a_smaller_image_is_never_enlarged(tmp_path: Path) -> None:
    assert open_image(photograph(tmp_path / "a.png", (20, 30)), short_side=50).size == (20, 30)


def test_a_jpeg_decoded_small_looks_like_one_decoded_whole(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(400) // 4, np.arange(400) // 4).astype(np.uint8)
    path = saved(tmp_path / "a.jpg", Image.fromarray(ramp).convert("RGB"), quality=95)
    whole = Image.open(path).resize((40, 40), Image.Resampling.LANCZOS)
    small = open_image(path, short_side=40)
    assert np.abs(np.asarray(small).astype(int) - np.asarray(whole).astype(int)).mean() < 2


# --- the cache


def test_a_small_split_is_kept_in_memory_and_survives_its_files(tmp_path: Path) -> None:
    paths = [photograph(tmp_path / f"{number}.png", (40, 20 + number)) for number in range(3)]
    decoded = DecodedSplit(split_of(*paths))
    expected = [pixels(path) for path in paths]
    for path in paths:
        path.unlink()
    assert decoded.in_memory
    assert all(np.array_equal(np.asarray(decoded.image(index)), made) for index, made in enumerate(expected))


def test_a_large_split_is_decoded_when_needed_and_gives_the_same_images(tmp_path: Path) -> None:
    paths = [photograph(tmp_path / f"{number}.jpg", (400, 300)) for number in range(4)]
    kept, live = (
        DecodedSplit(split_of(*paths), decode_size=256),
        DecodedSplit(split_of(*paths), decode_size=256, limit_mb=0),
    )
    assert kept.in_memory
    assert not live.in_memory
    assert np.array_equal(np.asarray(kept.image(3)), np.asarray(live.image(3)))
    assert kept.image(3).size == (341, 256)


def test_the_limit_is_kept(tmp_path: Path) -> None:
    paths = [photograph(tmp_path / f"{number}.png", (600, 600)) for number in range(4)]  # 1.03 MiB each
    assert not DecodedSplit(split_of(*paths), limit_mb=4).in_memory
    assert DecodedSplit(split_of(*paths), limit_mb=5).in_memory
    assert DecodedSplit(split_of(*paths), limit_mb=1, decode_size=64).in_memory


def test_the_limit_is_kept_where_a_sample_of_the_sizes_misleads() -> None:
    images = [Image.new("RGB", (2, 2))] * 400
    images[1:3] = [Image.new("RGB", (600, 600))] * 2  # the sample takes about every third image, the first among them
    decoded = DecodedSplit(Split(images, np.zeros(400, dtype=np.int64)), limit_mb=2)
    assert not decoded.in_memory
    assert decoded.image(2).size == (600, 600)


def test_what_is_held_is_announced(tmp_path: Path) -> None:
    paths = [photograph(tmp_path / f"{number}.png", (600, 600)) for number in range(4)]
    assert DecodedSplit(split_of(*paths)).describe() == "4 images kept in memory (4 MiB)"
    assert (
        DecodedSplit(split_of(*paths), limit_mb=1).describe() == "4 images decoded when needed (about 4 MiB in memory)"
    )


def test_an_array_is_used_as_it_is() -> None:
    decoded = DecodedSplit(Split(PIXELS[None], np.array([3])), limit_mb=0)
    assert decoded.in_memory
    assert np.array_equal(np.asarray(decoded.image(0)), PIXELS)
    assert decoded.labels.tolist() == [3]


def test_pillow_images_are_a_split_too() -> None:
    decoded = DecodedSplit(Split([Image.fromarray(PIXELS[..., 0])], np.array([0])), decode_size=6)
    assert decoded.image(0).mode == "RGB"
    assert decoded.image(0).size == (8, 6)
