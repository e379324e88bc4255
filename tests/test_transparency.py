"""What is transparent lies on white."""

import struct
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from pictures import RNG, looked, png, saved
from PIL import Image

COLOURS = RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8)


def on_white(image: Image.Image) -> np.ndarray:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return np.asarray(white.convert("RGB"))


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jp2", "avif", "heic"])
def test_what_is_transparent_lies_on_white(tmp_path: Path, suffix: str) -> None:
    settings = {"webp": {"lossless": True, "exact": True}, "avif": {"quality": 100, "subsampling": "4:4:4"}}
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))  # a drawing in black
    image.paste((0, 0, 0, 255), (16, 16, 48, 48))
    image.paste((0, 0, 200, 128), (0, 0, 16, 64))
    path = tmp_path / f"a.{suffix}"
    if suffix == "heic":
        pillow_heif.from_pillow(image).save(path, quality=-1)
    else:
        saved(path, image, **settings.get(suffix, {}))
    made = looked(path).astype(int)
    assert np.abs(made - on_white(image)).max() <= (3 if suffix in ("avif", "heic") else 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_every_alpha_channel_counts(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOURS, "RGBA").convert("LA" if mode == "LA" else "RGBA")
    if mode == "PA":
        image = image.quantize(50)
    assert np.array_equal(looked(saved(tmp_path / "a.png", image)), on_white(image))


def test_associated_alpha_of_a_tiff_is_not_applied_twice(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (100, 0, 0, 128))  # stored: 200, halved
    path = saved(tmp_path / "a.tif", image)
    unassociated = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
    assert unassociated in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(unassociated, struct.pack("<HHIHH", 338, 3, 1, 1, 0)))
    assert np.abs(looked(path)[0, 0].astype(int) - (255 * 127 // 255 + 100, 127, 127)).max() <= 2


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white_whatever_its_depth(tmp_path: Path, bits: int) -> None:
    row = {1: [0b01000000], 2: [0b00011011], 4: [0x05, 0xAF], 8: [0, 5, 9, 255], 16: [0, 0, 2, 0, 9, 9, 255, 255]}[bits]
    key = {1: 0, 2: 1, 4: 5, 8: 5, 16: 512}[bits]
    made = png(2 if bits == 1 else 4, 1, bits, 0, bytes([0, *row]), tRNS=struct.pack(">H", key))
    (tmp_path / "a.png").write_bytes(made)
    values = {1: [255, 255], 2: [0, 255, 170, 255], 4: [0, 255, 170, 255]}.get(bits, [0, 255, 9, 255])
    assert looked(tmp_path / "a.png")[0, :, 0].tolist() == values


def test_a_transparent_colour_is_white_in_8_and_16_bits(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [200, 5, 6]]], dtype=np.uint8))
    assert looked(saved(tmp_path / "a.png", image, transparency=(1, 2, 3))).tolist() == [[[255] * 3, [200, 5, 6]]]
    rows = b"\0" + np.array([300, 600, 900, 51400, 1285, 1542], dtype=">u2").tobytes()
    (tmp_path / "b.png").write_bytes(png(2, 1, 16, 2, rows, tRNS=struct.pack(">HHH", 300, 600, 900)))
    assert looked(tmp_path / "b.png").tolist() == [[[255] * 3, [200, 5, 6]]]


def test_the_transparent_ground_of_a_gif_is_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), "P")
    image.putpalette([0, 0, 0, 200, 0, 0])
    assert looked(saved(tmp_path / "a.gif", image, transparency=0)).tolist() == [
        [[255] * 3, [200, 0, 0]],
        [[200, 0, 0], [255] * 3],
    ]


def test_a_reduced_drawing_does_not_bleed_what_is_hidden(tmp_path: Path) -> None:
    hidden = Image.new("RGBA", (400, 400), (255, 0, 0, 0))  # red that nobody sees
    hidden.paste((0, 0, 0, 255), (100, 100, 300, 300))
    made = looked(saved(tmp_path / "a.png", hidden), short_side=50)
    assert np.array_equal(made[..., 0], made[..., 1])


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    opaque = Image.fromarray(COLOURS[..., :3])
    assert np.array_equal(looked(saved(tmp_path / "a.png", opaque.convert("RGBA"))), COLOURS[..., :3])
