"""Metadata never stop a picture: the orientation is read as far as it can be, the rest is passed over."""

import itertools
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from pictures import PICTURE, RNG, chunk, encoded, read
from PIL import Image, PngImagePlugin, TiffImagePlugin

from cikd_cli.data.images import look, open_image
from cikd_cli.data.orientation import orientation
from cikd_cli.errors import CikdError

TURNED = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)


def block(*entries: bytes, extra: bytes = b"", count: int | None = None) -> bytes:
    """An EXIF block, big-endian, of these entries."""
    number = len(entries) if count is None else count
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", number) + b"".join(entries) + bytes(4) + extra


ODD = {  # the block, and whether its orientation can be read
    "an empty block": (b"Exif\0\0", False),
    "a cut header": (b"Exif\0\0MM\0", False),
    "no order of bytes": (b"Exif\0\0XX\0*\0\0\0\x08" + TURNED, False),
    "a directory far away": (b"Exif\0\0MM\0*\xff\xff\xff\xf0", False),
    "more entries than there are": (block(TURNED, count=60000), True),
    "a cut entry": (block(TURNED)[:-10], False),
    "a denominator of 0": (
        block(TURNED, struct.pack(">HHII", 0x011A, 5, 1, 38), extra=struct.pack(">II", 72, 0)),
        True,
    ),
    "text that is longer than the block": (block(TURNED, struct.pack(">HHII", 0x0131, 2, 4000000, 38)), True),
    "a directory within, nowhere": (block(TURNED, struct.pack(">HHII", 0x8769, 4, 1, 99999)), True),
    "a directory within that is text": (block(TURNED, struct.pack(">HHI", 0x8825, 2, 4) + b"abc\0"), True),
    "a directory within that is itself": (block(TURNED, struct.pack(">HHII", 0x8769, 4, 1, 8)), True),
    "a negative number": (block(TURNED, struct.pack(">HHIHH", 0x0103, 8, 1, 0xFFFF, 0)), True),
    "an unknown type": (block(struct.pack(">HHII", 0x0100, 77, 1, 0), TURNED), True),
    "an orientation in letters": (block(struct.pack(">HHI", 0x0112, 2, 2) + b"6\0\0\0"), False),
    "an orientation of 0": (block(struct.pack(">HHIHH", 0x0112, 3, 1, 0, 0)), False),
    "an orientation of 9": (block(struct.pack(">HHIHH", 0x0112, 3, 1, 9, 0)), False),
    "an orientation of no number": (block(struct.pack(">HHIHH", 0x0112, 3, 0, 6, 0)), False),
    "a long orientation": (block(struct.pack(">HHII", 0x0112, 4, 1, 6)), True),
    "a second mark": (b"Exif\0\0" + block(TURNED), True),
    "noise": (RNG.bytes(200), False),
}


def segment(content: bytes, marker: int = 0xE1) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def with_exif(format: str, exif: bytes) -> bytes:
    """A picture with such an EXIF block, however broken."""
    plain = encoded(format)
    if format == "JPEG":
        return plain[:2] + segment(exif) + plain[2:]
    if format == "PNG":
        return plain[:33] + chunk(b"eXIf", exif[6:]) + plain[33:]
    riff = encoded(format, exif=b"Exif\0\0" + b"MM\0*" + bytes(8))  # an extended WebP, with a block to put another for
    at = riff.index(b"EXIF")
    body = riff[12:at] + b"EXIF" + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_broken_exif_block_stops_nothing_and_turns_where_it_can(tmp_path: Path, format: str, odd: str) -> None:
    exif, turned = ODD[odd]
    made = read(tmp_path / "a", with_exif(format, exif))
    assert made.size == ((48, 64) if turned else (64, 48))


def test_no_block_of_bytes_stops_the_orientation() -> None:
    whole = block(TURNED, struct.pack(">HHII", 0x011A, 5, 1, 38), extra=bytes(8))
    generator = random.Random(0)
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(generator.randrange(4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        assert orientation(bytes(damaged[: generator.randrange(len(damaged) + 1)])) in range(1, 9)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_xmp_block_turns_where_exif_says_nothing_in_any_encoding(tmp_path: Path, format: str) -> None:
    for number, (xmp, turned) in enumerate(
        [
            (b'<x:xmpmeta tiff:Orientation="6">caf\xe9</x:xmpmeta>', True),
            (b"<x:xmpmeta>caf\xe9 \xa8</x:xmpmeta>", False),
            (b"\xff\xfe\0", False),
        ]
    ):
        plain = encoded(format)
        if format == "JPEG":
            content = plain[:2] + segment(b"http://ns.adobe.com/xap/1.0/\0" + xmp) + plain[2:]
        elif format == "PNG":
            content = plain[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + plain[33:]
        else:
            content = encoded(format, xmp=xmp)
        assert read(tmp_path / str(number), content).size == ((48, 64) if turned else (64, 48))


def test_the_tags_of_a_tiff_turn_it_and_broken_ones_stop_nothing(tmp_path: Path) -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112], info[0x0131], info[0x9999] = 6, "a program of some name", 8
    info.tagtype[0x9999] = 4
    whole = encoded("TIFF", tiffinfo=info).replace(struct.pack("<HHI", 0x9999, 4, 1), struct.pack("<HHI", 0x8769, 4, 1))
    assert read(tmp_path / "a.tif", whole).size == (48, 64)
    at = whole.index(struct.pack("<HHI", 0x8769, 4, 1))
    for pointer in (b"\xf0\xff\xff\xff", b"\x08\0\0\0", b"abc\0"):
        assert read(tmp_path / "b.tif", whole[: at + 8] + pointer + whole[at + 12 :]).size == (48, 64)
    at = whole.index(struct.pack("<HHI", 0x0112, 3, 1))
    assert read(tmp_path / "c.tif", whole[: at + 8] + b"\x4d" + whole[at + 9 :]).size == (64, 48)


@pytest.mark.parametrize("suffix", ["avif", "heic"])
@pytest.mark.parametrize("stated", range(1, 9))
def test_what_a_container_turns_is_turned_once(tmp_path: Path, suffix: str, stated: int) -> None:
    corner = np.zeros((64, 96, 3), dtype=np.uint8)
    corner[:32, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = stated
    block, path = exif.tobytes(), tmp_path / f"a.{suffix}"
    if suffix == "avif":
        Image.fromarray(corner).save(path, exif=block)
    else:
        pillow_heif.from_pillow(Image.fromarray(corner)).save(path, exif=block)
    Image.fromarray(corner).save(tmp_path / "a.png", exif=block)
    made, expected = np.asarray(open_image(path)), np.asarray(open_image(tmp_path / "a.png"))
    assert made.shape == expected.shape
    assert np.abs(made.astype(int) - expected).mean() < 5


@pytest.mark.parametrize("suffix", ["avif", "heic"])
def test_broken_exif_in_a_container_stops_nothing(tmp_path: Path, suffix: str) -> None:
    exif = b"Exif\0\0MM\0*" + b"0123456789" * 20
    path = tmp_path / f"a.{suffix}"
    if suffix == "avif":
        good = encoded(
            "AVIF", exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHI", 0x131, 2, 90) + bytes(120)
        )
        content = good.replace(b"MM\0*\0\0\0\x08", b"XXXXXXXX")
        assert content != good
    else:
        pillow_heif.from_pillow(PICTURE).save(path, exif=exif)
        content = path.read_bytes()
    assert read(path, content).size == (64, 48)


# --- PNG


def test_text_of_any_size_in_a_png_is_passed_over(tmp_path: Path) -> None:
    for number, (kind, zipped) in enumerate(itertools.product(("text", "itxt"), (True, False))):
        info = PngImagePlugin.PngInfo()
        add = info.add_text if kind == "text" else info.add_itxt
        add("Comment", "x" * 30_000_000, zip=zipped)
        made = read(tmp_path / f"{number}.png", encoded("PNG", pnginfo=info))
        assert np.array_equal(np.asarray(made), np.asarray(PICTURE))


@pytest.mark.parametrize(
    "kind", [b"zTXt", b"iTXt", b"iCCP", b"tEXt", b"acTL", b"fcTL", b"fdAT", b"pHYs", b"tRNS", b"abCd"]
)
@pytest.mark.parametrize("content", [b"", b"\0", b"k\0\7x", b"k\0\0" + zlib.compress(bytes(10**8)), b"\xff" * 40])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_what_is_odd_beside_the_pixels_of_a_png_is_passed_over(
    tmp_path: Path, kind: bytes, content: bytes, place: str
) -> None:
    plain = encoded("PNG")
    at = 33 if place == "before" else len(plain) - 12
    made = read(tmp_path / "a.png", plain[:at] + chunk(kind, content) + plain[at:])
    assert np.array_equal(np.asarray(made), np.asarray(PICTURE))


def test_damaged_pixels_of_a_png_are_noticed_at_first_look(tmp_path: Path) -> None:
    plain = bytearray(encoded("PNG"))
    plain[len(plain) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(plain)
    with pytest.raises(CikdError, match="checksum"):
        look(tmp_path / "a.png")


def test_a_palette_that_is_missing_is_noticed_at_first_look(tmp_path: Path) -> None:
    plain = encoded("PNG", PICTURE.quantize(4))
    at = plain.index(b"PLTE") - 4
    length = 12 + int.from_bytes(plain[at : at + 4], "big")
    (tmp_path / "a.png").write_bytes(plain[:at] + plain[at + length :])
    with pytest.raises(CikdError, match="without its palette"):
        look(tmp_path / "a.png")


# --- JPEG


def test_what_is_odd_beside_the_pixels_of_a_jpeg_is_passed_over(tmp_path: Path) -> None:
    plain = encoded("JPEG")
    (tmp_path / "plain.jpg").write_bytes(plain)
    expected = np.asarray(open_image(tmp_path / "plain.jpg"))
    photoshop = segment(b"Photoshop 3.0\0" + b"8BIM\x04\x04", 0xED)
    profile = segment(b"ICC_PROFILE\0", 0xE2)
    pictures = segment(b"MPF\0" + b"MM\0*\0\0\0\x08\xff\xff", 0xE2)
    for number, odd in enumerate([photoshop, profile, pictures, segment(b"", 0xFE), b"\xff" * 20]):
        made = read(tmp_path / f"{number}.jpg", plain[:2] + odd + plain[2:])
        assert np.array_equal(np.asarray(made), expected)


def test_a_cmyk_jpeg_keeps_the_segment_that_says_what_its_colours_are(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    content = encoded("JPEG", image, exif=b"Exif\0\0")
    assert np.abs(np.asarray(read(tmp_path / "a.jpg", content)).astype(int) - (200, 30, 40)).max() < 6
