"""More than 8 bits are read by a declared range, or refused with what was found."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from pictures import chunk, looked, png, saved
from PIL import Image

from cikd_cli.data.images import look, open_image
from cikd_cli.errors import CikdError

RAMP = np.add.outer(np.arange(64), np.arange(64)) / 126  # 0 to 1
S_RANGE, M_RANGE = (340, 341), (280, 281)


def refused(path: Path) -> str:
    with pytest.raises(CikdError, match="cannot be read") as first:
        look(path)
    with pytest.raises(CikdError) as second:
        open_image(path)
    assert first.value.message == second.value.message
    return first.value.message


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return png[:33] + chunk(kind, content) + png[33:]


def as_png(image: Image.Image, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **settings)
    return buffer.getvalue()


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
    assert looked(path).max() == 64
    assert look(saved(tmp_path / "b.png", Image.fromarray((RAMP * 65535).astype(np.uint16)))) == ""


@pytest.mark.parametrize("step", [16, 257])
def test_a_dark_image_that_fills_its_16_bits_is_no_such_file(tmp_path: Path, step: int) -> None:
    values = (np.floor(RAMP * 15) * (256 if step == 16 else 257)).astype(np.uint16)
    assert looked(saved(tmp_path / "a.png", Image.fromarray(values))).max() == 15
    assert looked(saved(tmp_path / "black.png", Image.fromarray(values * 0))).max() == 0


@pytest.mark.parametrize("tags", [S_RANGE, M_RANGE])
def test_the_range_that_a_tiff_declares_is_used(tmp_path: Path, tags: tuple[int, int]) -> None:
    values = (RAMP * 4095).astype(np.uint16)
    path = saved(tmp_path / "a.tif", Image.fromarray(values), tiffinfo=dict(zip(tags, (0, 4095), strict=True)))
    assert np.array_equal(looked(path)[..., 0], np.rint(values / 4095 * 255))


def test_a_tiff_of_12_bits_is_read_by_them(tmp_path: Path) -> None:
    content = saved(tmp_path / "a.tif", Image.frombytes("L", (3, 1), b"\xff\xf8\x00")).read_bytes()  # 4095 and 2048
    for tag, before, now in ((256, 3, 2), (258, 8, 12)):
        entries = [struct.pack(f"<HHI{kind}", tag, number, 1, before) for kind, number in (("H", 3), ("I", 4))]
        found = next(entry for entry in entries if entry in content)
        content = content.replace(found, found[:8] + struct.pack("<I", now)[: len(found) - 8])
    (tmp_path / "a.tif").write_bytes(content)
    assert looked(tmp_path / "a.tif")[..., 0].tolist() == [[255, 128]]


def test_the_range_that_floats_declare_is_used(tmp_path: Path) -> None:
    for number, (low, high) in enumerate([(-1.0, 1.0), (0.0, 65535.0), (-1000.0, 3000.0)]):
        values = (low + RAMP * (high - low)).astype(np.float32)
        path = saved(tmp_path / f"{number}.tif", Image.fromarray(values), tiffinfo={340: low, 341: high})
        made = looked(path)[..., 0].astype(int)
        assert np.abs(made - np.rint(RAMP * 255)).max() <= 1
        assert (made.min(), made.max()) == (0, 255)


def test_a_declared_range_that_the_values_leave_is_none(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray((RAMP * 65535).astype(np.uint16)), tiffinfo={280: 0, 281: 255})
    assert looked(path)[..., 0].tolist() == np.rint((RAMP * 65535).astype(np.uint16) / 257).tolist()


def test_the_significant_bits_of_a_png_are_its_range(tmp_path: Path) -> None:
    left = as_png(Image.fromarray((RAMP * 4095).astype(np.uint16)))
    (tmp_path / "as they were.png").write_bytes(with_chunk(left, b"sBIT", b"\x0c"))
    shifted = as_png(Image.fromarray((RAMP * 4095).astype(np.uint16) * 16))  # as PNG asks
    (tmp_path / "shifted.png").write_bytes(with_chunk(shifted, b"sBIT", b"\x0c"))
    for name in ("as they were.png", "shifted.png"):
        assert np.abs(looked(tmp_path / name)[..., 0].astype(int) - np.rint(RAMP * 255)).max() <= 1


def test_the_largest_value_of_a_pnm_is_its_range(tmp_path: Path) -> None:
    for top in (100, 1000, 4095, 65535):
        values = np.array([0, top // 2, top], dtype=">u2" if top > 255 else "u1")
        (tmp_path / "a.pgm").write_bytes(b"P5 3 1 %d\n" % top + values.tobytes())
        assert np.abs(looked(tmp_path / "a.pgm")[0, :, 0].astype(int) - (0, 127, 255)).max() <= 1
    (tmp_path / "dark.pgm").write_bytes(b"P5 3 1 4095\n" + np.array([1, 100, 200], dtype=">u2").tobytes())
    assert looked(tmp_path / "dark.pgm")[0, :, 0].tolist() == [0, 6, 12]


def test_floats_are_read_from_0_to_1_or_0_to_255_with_what_resampling_overshoots(tmp_path: Path) -> None:
    unit = RAMP.astype(np.float32)
    for number, values in enumerate([unit, unit * 1.02, unit * 1.04 - 0.02, unit * 255]):
        made = looked(saved(tmp_path / f"{number}.tif", Image.fromarray(values.astype(np.float32))))[..., 0]
        assert np.abs(made.astype(int) - np.rint(unit * 255)).max() <= 6
    assert looked(saved(tmp_path / "nan.tif", Image.fromarray(np.array([[np.nan, 0.5, 1]], dtype=np.float32))))[
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
    assert looked(saved(tmp_path / "b.tif", Image.fromarray((RAMP * 65535).astype(np.int32)))).max() == 255


def test_16_bit_greys_of_which_0_is_white_are_turned_round(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray((RAMP * 65535).astype(np.uint16)))
    black_is_zero = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert black_is_zero in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(black_is_zero, struct.pack("<HHIHH", 262, 3, 1, 0, 0)))
    assert looked(path)[0, 0, 0] == 255


def test_every_16_bit_grey_is_the_nearest_of_8_bits(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    made = looked(saved(tmp_path / "a.png", Image.fromarray(values)))[..., 0]
    assert np.array_equal(made, (values.astype(np.int64) + 128) // 257)


def test_a_turned_16_bit_tiff_keeps_its_shape(tmp_path: Path) -> None:
    values = np.array([[0, 65535, 0], [257, 0, 0]], dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = looked(saved(tmp_path / "a.tif", Image.fromarray(values), exif=exif))[..., 0]
    assert np.array_equal(made, np.rot90(np.rint(values / 257), -1))
