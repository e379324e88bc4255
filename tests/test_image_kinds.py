"""What is an image under another name, and what is none."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from pictures import PICTURE, encoded, read
from PIL import Image

from cikd_cli.data import formats
from cikd_cli.data.images import look
from cikd_cli.errors import CikdError


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    formats.reads_heif.cache_clear()
    yield
    monkeypatch.undo()
    formats.reads_heif.cache_clear()


def test_heic_under_any_name_is_read_where_the_extra_is_and_else_named(tmp_path: Path, request) -> None:
    path, smooth = tmp_path / "phone.jpg", PICTURE.resize((4, 3)).resize((64, 48))
    pillow_heif.from_pillow(smooth).save(path.with_suffix(".heic"))
    made = read(path, path.with_suffix(".heic").read_bytes())
    assert np.abs(np.asarray(made).astype(int) - np.asarray(smooth)).mean() < 5
    request.getfixturevalue("without_heif")
    with pytest.raises(CikdError, match=r"it is a HEIC image.*pip install 'cikd\[heic\]'"):
        look(path)


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000", "WEBP", "GIF", "TIFF", "MPO"])
def test_an_image_under_another_name_is_read_and_named_where_it_is_damaged(tmp_path: Path, format: str) -> None:
    content = encoded(format)
    assert read(tmp_path / "a.jpg", content).size == (64, 48)
    (tmp_path / "b.jpg").write_bytes(content[:40])
    with pytest.raises(CikdError, match="cannot be read: "):
        look(tmp_path / "b.jpg")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
            "pointer of Git LFS.*git lfs pull",
        ),
        (b"<html>403 Forbidden</html>", "an HTML page"),
        (b"\xef\xbb\xbf\n <!DOCTYPE HTML><html></html>", "an HTML page"),
        (b"%PDF-1.7\n", "a PDF"),
        (b'<?xml version="1.0"?><svg/>', "an SVG drawing"),
        (b"<?xml version='1.0'?><Error/>", "XML"),
        (b"\xff\x0a" + bytes(30), "JPEG XL"),
        (b"no picture", "it is not an image"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(9), "an AVIF image that is damaged"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(9), "cannot be read"),
    ],
)
def test_what_is_no_image_is_named_for_what_it_is(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(CikdError, match=name):
        look(tmp_path / "a.jpg")


@pytest.mark.parametrize("format", ["JPEG2000", "AVIF"])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path, format: str) -> None:
    content = encoded(format, Image.new("RGB", (64, 64)))
    size = struct.pack(">II", 64, 64)
    assert size in content
    (tmp_path / "a").write_bytes(content.replace(size, struct.pack(">II", 9000, 9000)))
    with pytest.raises(CikdError, match="pixels"):
        look(tmp_path / "a")
