"""What is transparent lies on white; more than 8 bits are read by a declared range, or refused with what was found."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from cikd_cli.data.images import look, open_image, probe
from cikd_cli.errors import CikdError

RNG = np.random.default_rng(0)
RAMP = np.add.outer(np.arange(64), np.arange(64)) / 126  # 0 to 1
COLOURS = RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8)
S_RANGE, M_RANGE = (340, 341), (280, 281)


def saved(path: Path, image: Image.Image, **settings: object) -> Path:
    image.save(path, **settings)
    return path


def pixels(path: Path, **settings: int) -> np.ndarray:
    probe(path)  # what passes the first look is never refused later
    return np.asarray(open_image(path, **settings))


def on_white(image: Image.Image) -> np.ndarray:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return np.asarray(white.convert("RGB"))


def refused(path: Path) -> str:
    with pytest.raises(CikdError, match="cannot be read") as first:
        probe(path)
    with pytest.raises(CikdError) as second:
        open_image(path)
    assert first.value.message == second.value.message
    return first.value.message


def png(width: int, height: int, bits: int, colour: int, rows: bytes, **more: bytes) -> bytes:
    """A PNG of these rows, each with its filter's byte; more: chunks before the rows."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = {"IHDR": header, **more, "IDAT": zlib.compress(rows), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind.encode(), content) for kind, content in chunks.items())


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return png[:33] + chunk(kind, content) + png[33:]


def as_png(image: Image.Image, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **settings)
    return buffer.getvalue()


# --- transparency


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
    made = pixels(path).astype(int)
    assert np.abs(made - on_white(image)).max() <= (3 if suffix in ("avif", "heic") else 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_every_alpha_channel_counts(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOURS, "RGBA").convert("LA" if mode == "LA" else "RGBA")
    if mode == "PA":
        image = image.quantize(50)
    assert np.array_equal(pixels(saved(tmp_path / "a.png", image)), on_white(image))


def test_associated_alpha_of_a_tiff_is_not_applied_twice(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (100, 0, 0, 128))  # stored: 200, halved
    path = saved(tmp_path / "a.tif", image)
    unassociated = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
    assert unassociated in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(unassociated, struct.pack("<HHIHH", 338, 3, 1, 1, 0)))
    assert np.abs(pixels(path)[0, 0].astype(int) - (255 * 127 // 255 + 100, 127, 127)).max() <= 2


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white_whatever_its_depth(tmp_path: Path, bits: int) -> None:
    row = {1: [0b01000000], 2: [0b00011011], 4: [0x05, 0xAF], 8: [0, 5, 9, 255], 16: [0, 0, 2, 0, 9, 9, 255, 255]}[bits]
    key = {1: 0, 2: 1, 4: 5, 8: 5, 16: 512}[bits]
    made = png(2 if bits == 1 else 4, 1, bits, 0, bytes([0, *row]), tRNS=struct.pack(">H", key))
    (tmp_path / "a.png").write_bytes(made)
    values = {1: [255, 255], 2: [0, 255, 170, 255], 4: [0, 255, 170, 255]}.get(bits, [0, 255, 9, 255])
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == values


def test_a_transparent_colour_is_white_in_8_and_16_bits(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [200, 5, 6]]], dtype=np.uint8))
    assert pixels(saved(tmp_path / "a.png", image, transparency=(1, 2, 3))).tolist() == [[[255] * 3, [200, 5, 6]]]
    rows = b"\0" + np.array([300, 600, 900, 51400, 1285, 1542], dtype=">u2").tobytes()
    (tmp_path / "b.png").write_bytes(png(2, 1, 16, 2, rows, tRNS=struct.pack(">HHH", 300, 600, 900)))
    assert pixels(tmp_path / "b.png").tolist() == [[[255] * 3, [200, 5, 6]]]


def test_the_transparent_ground_of_a_gif_is_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), "P")
    image.putpalette([0, 0, 0, 200, 0, 0])
    assert pixels(saved(tmp_path / "a.gif", image, transparency=0)).tolist() == [
        [[255] * 3, [200, 0, 0]],
        [[200, 0, 0], [255] * 3],
    ]


def test_a_reduced_drawing_does_not_bleed_what_is_hidden(tmp_path: Path) -> None:
    hidden = Image.new("RGBA", (400, 400), (255, 0, 0, 0))  # red that nobody sees
    hidden.paste((0, 0, 0, 255), (100, 100, 300, 300))
    made = pixels(saved(tmp_path / "a.png", hidden), short_side=50)
    assert np.array_equal(made[..., 0], made[..., 1])


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    opaque = Image.fromarray(COLOURS[..., :3])
    assert np.array_equal(pixels(saved(tmp_path / "a.png", opaque.convert("RGBA"))), COLOURS[..., :3])


# --- ranges


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [255, 1023, 4095])
def test_few_bits_in_a_16_bit_file_are_refused_with_the_range_found(tmp_path: Path, suffix: str, top: int) -> None:
    message = refused(saved(tmp_path / f"a.{suffix}", Image.fromarray((RAMP * top).astype(np.uint16))))
    assert f"its values end at {top:,} of 65,535" in message
    assert "save it as 8 bit" in message


def test_few_bits_in_16_bit_colours_are_refused_too(tmp_path: Path) -> None:
    rows = b"\0" + np.array([0, 4095, 9, 0, 0, 1], dtype=">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, rows))
    assert "4,095 of 65,535" in refused(tmp_path / "a.png")


def test_14_bits_in_a_16_bit_file_leave_a_doubt(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray((RAMP * 16383).astype(np.uint16)))
    assert look(path) == "its values end at 16,383 of 65,535"
    assert pixels(path).max() == 64
    assert look(saved(tmp_path / "b.png", Image.fromarray((RAMP * 65535).astype(np.uint16)))) == ""


@pytest.mark.parametrize("step", [16, 257])
def test_a_dark_image_that_fills_its_16_bits_is_no_such_file(tmp_path: Path, step: int) -> None:
    values = (np.floor(RAMP * 15) * (256 if step == 16 else 257)).astype(np.uint16)
    assert pixels(saved(tmp_path / "a.png", Image.fromarray(values))).max() == 15
    assert pixels(saved(tmp_path / "black.png", Image.fromarray(values * 0))).max() == 0


@pytest.mark.parametrize("tags", [S_RANGE, M_RANGE])
def test_the_range_that_a_tiff_declares_is_used(tmp_path: Path, tags: tuple[int, int]) -> None:
    values = (RAMP * 4095).astype(np.uint16)
    path = saved(tmp_path / "a.tif", Image.fromarray(values), tiffinfo=dict(zip(tags, (0, 4095), strict=True)))
    assert np.array_equal(pixels(path)[..., 0], np.rint(values / 4095 * 255))


def test_a_tiff_of_12_bits_is_read_by_them(tmp_path: Path) -> None:
    content = saved(tmp_path / "a.tif", Image.frombytes("L", (3, 1), b"\xff\xf8\x00")).read_bytes()  # 4095 and 2048
    for tag, before, now in ((256, 3, 2), (258, 8, 12)):
        entries = [struct.pack(f"<HHI{kind}", tag, number, 1, before) for kind, number in (("H", 3), ("I", 4))]
        found = next(entry for entry in entries if entry in content)
        content = content.replace(found, found[:8] + struct.pack("<I", now)[: len(found) - 8])
    (tmp_path / "a.tif").write_bytes(content)
    assert pixels(tmp_path / "a.tif")[..., 0].tolist() == [[255, 128]]


def test_the_range_that_floats_declare_is_used(tmp_path: Path) -> None:
    for number, (low, high) in enumerate([(-1.0, 1.0), (0.0, 65535.0), (-1000.0, 3000.0)]):
        values = (low + RAMP * (high - low)).astype(np.float32)
        path = saved(tmp_path / f"{number}.tif", Image.fromarray(values), tiffinfo={340: low, 341: high})
        made = pixels(path)[..., 0].astype(int)
        assert np.abs(made - np.rint(RAMP * 255)).max() <= 1
        assert (made.min(), made.max()) == (0, 255)


def test_a_declared_range_that_the_values_leave_is_none(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray((RAMP * 65535).astype(np.uint16)), tiffinfo={280: 0, 281: 255})
    assert pixels(path)[..., 0].tolist() == np.rint((RAMP * 65535).astype(np.uint16) / 257).tolist()


def test_the_significant_bits_of_a_png_are_its_range(tmp_path: Path) -> None:
    left = as_png(Image.fromarray((RAMP * 4095).astype(np.uint16)))
    (tmp_path / "as they were.png").write_bytes(with_chunk(left, b"sBIT", b"\x0c"))
    shifted = as_png(Image.fromarray((RAMP * 4095).astype(np.uint16) * 16))  # as PNG asks
    (tmp_path / "shifted.png").write_bytes(with_chunk(shifted, b"sBIT", b"\x0c"))
    for name in ("as they were.png", "shifted.png"):
        assert np.abs(pixels(tmp_path / name)[..., 0].astype(int) - np.rint(RAMP * 255)).max() <= 1


def test_the_largest_value_of_a_pnm_is_its_range(tmp_path: Path) -> None:
    for top in (100, 1000, 4095, 65535):
        values = np.array([0, top // 2, top], dtype=">u2" if top > 255 else "u1")
        (tmp_path / "a.pgm").write_bytes(b"P5 3 1 %d\n" % top + values.tobytes())
        assert np.abs(pixels(tmp_path / "a.pgm")[0, :, 0].astype(int) - (0, 127, 255)).max() <= 1
    (tmp_path / "dark.pgm").write_bytes(b"P5 3 1 4095\n" + np.array([1, 100, 200], dtype=">u2").tobytes())
    assert pixels(tmp_path / "dark.pgm")[0, :, 0].tolist() == [0, 6, 12]


def test_floats_are_read_from_0_to_1_or_0_to_255_with_what_resampling_overshoots(tmp_path: Path) -> None:
    unit = RAMP.astype(np.float32)
    for number, values in enumerate([unit, unit * 1.02, unit * 1.04 - 0.02, unit * 255]):
        made = pixels(saved(tmp_path / f"{number}.tif", Image.fromarray(values.astype(np.float32))))[..., 0]
        assert np.abs(made.astype(int) - np.rint(unit * 255)).max() <= 6
    assert pixels(saved(tmp_path / "nan.tif", Image.fromarray(np.array([[np.nan, 0.5, 1]], dtype=np.float32))))[
        0, :, 0
    ].tolist() == [0, 128, 255]


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 65535), (0, 10), (-1000, 3000), (0, 1.5), (100, 4000)])
def test_other_floats_are_refused_with_the_range_found(tmp_path: Path, low: float, high: float) -> None:
    values = (low + RAMP * (high - low)).astype(np.float32)
    message = refused(saved(tmp_path / "a.tif", Image.fromarray(values)))
    assert f"floats from {low:g} to {high:g}" in message
    assert "save it as 8 bit" in message


def test_whole_numbers_outside_16_bits_are_refused_with_the_range_found(tmp_path: Path) -> None:
    for low, high in ((0, 1_000_000), (-5, 60_000)):
        values = np.array([[low, high]], dtype=np.int32)
        message = refused(saved(tmp_path / "a.tif", Image.fromarray(values)))
        assert f"from {low:,} to {high:,}" in message
    assert pixels(saved(tmp_path / "b.tif", Image.fromarray((RAMP * 65535).astype(np.int32)))).max() == 255


def test_16_bit_greys_of_which_0_is_white_are_turned_round(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray((RAMP * 65535).astype(np.uint16)))
    black_is_zero = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert black_is_zero in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(black_is_zero, struct.pack("<HHIHH", 262, 3, 1, 0, 0)))
    assert pixels(path)[0, 0, 0] == 255


def test_every_16_bit_grey_is_the_nearest_of_8_bits(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    made = pixels(saved(tmp_path / "a.png", Image.fromarray(values)))[..., 0]
    assert np.array_equal(made, (values.astype(np.int64) + 128) // 257)


def test_a_turned_16_bit_tiff_keeps_its_shape(tmp_path: Path) -> None:
    values = np.array([[0, 65535, 0], [257, 0, 0]], dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = pixels(saved(tmp_path / "a.tif", Image.fromarray(values), exif=exif))[..., 0]
    assert np.array_equal(made, np.rot90(np.rint(values / 257), -1))
