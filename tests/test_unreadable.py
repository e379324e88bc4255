"""Broken files are named before they are decoded and when they are; whole ones pass."""

from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from pictures import PIXELS, photograph, saved, split_of
from PIL import Image

from cikd_cli.data.decode import DecodedSplit, check_readable
from cikd_cli.data.images import look, open_image
from cikd_cli.data.splits import Split
from cikd_cli.errors import CikdError


def broken(tmp_path: Path, kind: str) -> Path:
    path = photograph(tmp_path / f"{kind}.{'png' if 'png' in kind else 'jpg'}")
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no picture")
    elif kind.startswith("cut"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "flipped png":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(data)
    elif kind == "missing":
        path.unlink()
    return path


KINDS = ["empty", "text", "cut jpeg", "cut png", "flipped png", "missing"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_is_named_without_decoding_the_split(tmp_path: Path, kind: str) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(CikdError, match="cannot be read") as caught:
        check_readable(split_of(photograph(tmp_path / "good.jpg"), path), skip=False)
    assert str(path) in caught.value.message
    assert "--skip-unreadable" in str(caught.value.hint)


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_is_named_when_it_is_decoded(tmp_path: Path, kind: str) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(CikdError, match="cannot be read") as caught:
        DecodedSplit(split_of(photograph(tmp_path / "good.jpg"), path))
    assert str(path) in caught.value.message


def test_broken_files_are_dropped_with_their_labels(tmp_path: Path) -> None:
    paths = [photograph(tmp_path / "0.jpg"), broken(tmp_path, "text"), photograph(tmp_path / "2.png")]
    kept = check_readable(Split(paths, np.array([5, 6, 7])), skip=True)
    assert kept.items == [paths[0], paths[2]]
    assert kept.labels.tolist() == [5, 7]


def test_the_number_of_further_broken_files_is_told(tmp_path: Path) -> None:
    paths = [broken(tmp_path, kind) for kind in ("empty", "text", "cut png")]
    with pytest.raises(CikdError, match=r"it is empty\. So are 2 more\."):
        check_readable(split_of(*paths), skip=False)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif", "ppm", "jp2", "avif", "heic", "mpo"])
def test_a_whole_file_of_every_kind_passes_the_check(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "heic":
        pillow_heif.from_pillow(Image.fromarray(PIXELS)).save(path)
    else:
        photograph(path)
    look(path)
    open_image(path)


def test_a_jpeg_with_bytes_after_its_end_is_whole(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + bytes(500))
    look(path)


def test_a_decompression_bomb_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bomb.bmp"
    header = bytearray(saved(tmp_path / "small.bmp", Image.new("RGB", (2, 2))).read_bytes())
    header[18:26] = (60000).to_bytes(4, "little") * 2  # width and height
    path.write_bytes(header)
    with pytest.raises(CikdError, match=r"bomb.bmp cannot be read: it has more than 67,108,864 pixels"):
        open_image(path)


def test_arrays_are_always_readable() -> None:
    split = Split(PIXELS[None], np.zeros(1, dtype=np.int64))
    assert check_readable(split, skip=False) is split
