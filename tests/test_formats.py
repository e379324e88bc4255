"""Which files are images: by name, else by content; what is left out has a kind and a word of advice."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from cikd_cli.data import formats
from cikd_cli.data.formats import advice, is_image, kind

HEIC = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(200)


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def saved(path: Path, format: str) -> str:
    Image.new("RGB", (8, 8), "red").save(path, format=format)
    return str(path)


@pytest.fixture(params=["with", "without"])
def heif(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether pillow-heif is there, both ways."""
    if request.param == "without":
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
    formats.reads_heif.cache_clear()
    yield request.param == "with"
    monkeypatch.undo()
    formats.reads_heif.cache_clear()


@pytest.mark.parametrize("name", ["a.JPG", "a.jfif", "a.jpe", "a.PgM", "a.jp2", "a.avif", "a.apng", "no/such.tiff"])
def test_an_images_name_in_any_case_is_enough(name: str) -> None:
    assert is_image(name)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "JPEG2000", "BMP", "AVIF", "PPM", "MPO"])
@pytest.mark.parametrize("name", ["photo", "photo.HEIC", "photo.dat", "photo 12.3 at noon, by the lake"])
def test_any_other_file_is_known_by_its_content(tmp_path: Path, name: str, format: str) -> None:
    assert is_image(saved(tmp_path / name, format))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"B",
        b"BMW, Audi, Opel: a list of cars",
        b"P6 is the name of a class",
        b"P1 2 many",
        b"GIFts",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(50),
        b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(50),
        b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(50),
        b"%PDF-1.7",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"<svg/>",
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_text_sound_film_and_programs_are_no_images(tmp_path: Path, content: bytes) -> None:
    assert not is_image(written(tmp_path / "file.xyz", content))


def test_heic_counts_where_it_can_be_read(tmp_path: Path, heif: bool) -> None:
    for name in ("a.HEIC", "b", "c.dat"):
        path = written(tmp_path / name, HEIC)
        assert is_image(path) == heif
        assert kind(path) == ".heic"
    assert is_image(written(tmp_path / "broken.heif", b"")) == heif
    assert kind(str(tmp_path / "broken.heif")) == ".heic"
    assert is_image(written(tmp_path / "d.jpg", HEIC))  # has an image's name: refused with a sentence, not passed over


def test_avif_in_a_general_container_is_no_heic(tmp_path: Path) -> None:
    path = written(tmp_path / "a", struct.pack(">I", 28) + b"ftypmif1\0\0\0\0mif1avifmiaf" + bytes(100))
    assert is_image(path)
    assert kind(path) == "no suffix"


@pytest.mark.parametrize("suffix", ["nef", "DNG", "cr2", "arw"])
def test_a_cameras_raw_file_is_not_read_as_its_thumbnail(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", "TIFF")
    assert not is_image(path)
    assert kind(path) == f".{suffix.lower()}"
    assert "convert" in advice(kind(path))


def test_what_is_left_out_has_a_kind_and_an_images_name_gets_advice(tmp_path: Path) -> None:
    for name, expected in {
        "notes.TXT": ".txt",
        "README": "no suffix",
        ".hidden": "no suffix",
        "at 10.30 by the lake": "no suffix",
        "data.tar.gz": ".gz",
    }.items():
        assert kind(written(tmp_path / name, b"text")) == expected
    assert advice(".heic") == advice(".heif") == "pip install 'cikd[heic]'"
    assert all(advice(suffix) == "convert them to PNG or JPEG" for suffix in (".svg", ".psd", ".ico", ".dcm", ".jxl"))
    assert not any(advice(suffix) for suffix in (".txt", ".json", ".db", ".mov", "no suffix", ""))


def test_what_cannot_be_looked_into_is_no_image_and_hangs_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder", "missing", "nul\0", "x" * 5000):
        assert not is_image(str(tmp_path / name))
        assert kind(str(tmp_path / name)) == "no suffix"


def test_deciding_what_is_an_image_loads_no_decoder() -> None:
    source = Path(formats.__file__)
    code = f"import runpy, sys; runpy.run_path({str(source)!r}); print(sorted({{'PIL', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
