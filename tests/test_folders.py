"""Which files of a folder are read, and what is said of those that are not."""

import io
import os
import shutil
import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cikd_cli.data import formats
from cikd_cli.data.sources import load_source
from cikd_cli.data.splits import DataSource
from cikd_cli.errors import CikdError

RNG = np.random.default_rng(0)
HEIC = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(200)


def noise(path: Path, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path, kind)
    return path


def folder(root: Path, *classes: str, count: int = 5) -> Path:
    for name in classes:
        for number in range(count):
            noise(root / name / f"{number}.png")
    return root


def load(data: Path, **settings: object) -> DataSource:
    return load_source(str(data), data_root="data", download=False, **settings)


def total(source: DataSource) -> int:
    return len(source.train) + len(source.test or ())


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setattr(formats, "reads_heif", lambda: False)


def test_images_are_read_by_content_whatever_a_phone_or_a_camera_calls_them(tmp_path):
    data = folder(tmp_path / "set", "a", "b")
    names = {
        "a/1.JFIF": "JPEG", "a/2.jpe": "JPEG", "a/3.avif": "AVIF", "a/4.jp2": "JPEG2000", "a/5.pgm": "PPM",
        "a/6.pbm": "PPM", "a/IMG_7.HEIC": "PNG", "a/without": "WEBP", "b/8.dat": "GIF",
    }  # fmt: skip
    for name, kind in names.items():
        noise(data / name, kind)
    assert total(load(data)) == 10 + len(names)


def test_every_file_left_out_is_counted_by_kind_and_a_class_that_shrinks_is_named(tmp_path, without_heif):
    data = folder(tmp_path / "set", "a", "b")
    for number in range(4):
        (data / "a" / f"IMG_{number}.HEIC").write_bytes(HEIC)
    (data / "b/notes.txt").write_text("no image")
    (data / "b/Thumbs.db").write_bytes(b"x")
    (data / "b/.hidden").write_bytes(b"x")
    source = load(data)
    rows = [text for label, text in source.facts if label in ("left out", "")]
    assert rows[0] == "4 .heic (pip install 'cikd[heic]'), 1 .db, 1 .txt"
    assert "a: 4 of 9 (4 .heic)" in rows[1]
    assert "b:" not in rows[1]  # a text file is no photograph
    assert total(source) == 10


def test_a_folder_of_heic_alone_says_so_and_does_not_advise_to_remove_it(tmp_path, without_heif):
    data = folder(tmp_path / "set", "a")
    (data / "b").mkdir()
    (data / "b/1.heic").write_bytes(HEIC)
    with pytest.raises(CikdError, match=r"No images for class b .*, only 1 \.heic") as caught:
        load(data)
    assert "pip install 'cikd[heic]'" in str(caught.value.hint)
    assert "remove" not in str(caught.value.hint)
    pile = tmp_path / "pile"
    pile.mkdir()
    (pile / "1.heic").write_bytes(HEIC)
    with pytest.raises(CikdError, match=r"holds no images, only 1 \.heic"):
        load(pile, labelled=False)


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    store = folder(tmp_path / "store", "red")
    data = folder(tmp_path / "set", "blue", "green")
    (data / "red").mkdir()
    (data / "red/more").symlink_to(store / "red")
    (data / "red/again").symlink_to(store / "red")  # the same once more
    (data / "red/loop").symlink_to(data / "red")
    (data / "green/up").symlink_to(data / "green")
    source = load(data)
    assert total(source) == 15
    assert source.classes == ("blue", "green", "red")
    linked = tmp_path / "linked"
    linked.symlink_to(data)
    assert total(load(linked)) == 15


def test_links_that_lead_back_up_label_nothing_and_are_said(tmp_path):
    data = folder(tmp_path / "set", "a", "b")
    (data / "a/up").symlink_to(data)
    (data / "b/far").symlink_to(tmp_path)
    (data / "loop").symlink_to(data / "loop")
    source = load(data)
    assert total(source) == 10
    assert "a/up, a link that leads back up; b/far, a link that leads back up" in dict(source.facts)["not read"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    data = folder(tmp_path / "set", "a", "b")
    folder(data / "a", "deep")
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)  # the tests may be root's, who may read everything
    with pytest.raises(CikdError, match=r"a/deep cannot be read: permission denied"):
        load(data)


def test_a_class_in_two_unicode_forms_is_one_class(tmp_path):
    data = tmp_path / "set"
    for form, part in (("NFD", "train"), ("NFC", "test")):
        folder(data / part, unicodedata.normalize(form, "café"), "the")
    source = load(data)
    assert source.classes == ("café", "the")
    assert (len(source.train), len(source.test)) == (10, 10)
    flat = folder(tmp_path / "flat", *(unicodedata.normalize(form, "café") for form in ("NFC", "NFD")), "the")
    assert load(flat).classes == ("café", "the")
    assert total(load(flat)) == 15


def test_what_is_not_read_is_named(tmp_path):
    data = folder(tmp_path / "set/train", "a", "b").parent
    noise(data / "extra/1.png")
    noise(data / "train/stray.png")
    noise(data / "beside.png")
    (data / "annotations").mkdir()
    said = dict(load(data).facts)["not read"]
    assert "annotations/ (no images)" in said
    assert "extra/ (1 image)" in said
    assert f"1 image in {data} itself" in said
    assert f"1 image in {data / 'train'} itself, outside of class folders" in said


def test_a_set_that_has_the_name_of_a_folder_here_is_said_with_how_to_name_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "digits", "a", "b")
    source = load_source("digits", data_root="data", download=False)
    assert len(source.classes) == 10
    assert "--data ./digits" in dict(source.facts)["warning"]
    assert load_source("./digits", data_root="data", download=False).classes == ("a", "b")
    folder(tmp_path / "flowers", "a", "b")
    with pytest.raises(CikdError, match="flowers is not in data") as caught:
        load_source("flowers", data_root="data", download=False)
    assert "--data ./flowers" in str(caught.value.hint)


def test_unlabelled_images_are_not_taken_from_a_layout_that_is_nearly_ours(tmp_path):
    data = tmp_path / "set"
    folder(data / "training_set", "a", "b")
    folder(data / "test_set", "a", "b")
    with pytest.raises(CikdError, match="splits under other names"):
        load(data, labelled=False)
    parted = tmp_path / "parted"
    noise(parted / "Training/1.png")
    noise(parted / "Testing/2.png")
    assert [path.name for path in load(parted, labelled=False).train.items] == ["1.png"]


def test_a_pipe_among_the_images_stops_nothing_that_has_no_image_s_name(tmp_path):
    data = folder(tmp_path / "set", "a", "b")
    os.mkfifo(data / "a/pipe")
    source = load(data)
    assert total(source) == 10
    assert "1 without a suffix" in dict(source.facts)["left out"]


def test_the_same_images_in_another_place_are_the_same_data(tmp_path):
    data = folder(tmp_path / "set", "a", "b")
    copied = shutil.copytree(data, tmp_path / "copy")
    assert load(data).fingerprint == load(copied).fingerprint
    stream = io.BytesIO()
    size = (data / "a/0.png").stat().st_size
    while stream.tell() != size:  # another image of as many bytes
        stream = io.BytesIO()
        Image.fromarray(RNG.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(stream, "PNG")
        stream.write(bytes(max(0, size - stream.tell())))
    (copied / "a/0.png").write_bytes(stream.getvalue())
    assert load(data).fingerprint != load(copied).fingerprint


def test_images_that_may_come_out_dark_are_said_once(tmp_path):
    data = folder(tmp_path / "set", "a", "b")
    for number in range(3):
        grey = RNG.integers(0, 2**14, (16, 16)).astype(np.uint16)
        grey[0, 0] = 2**14 - 1
        Image.fromarray(grey).save(data / f"a/grey-{number}.png")
    said = [text for label, text in load(data).facts if label == "warning"]
    assert len(said) == 1
    assert "and 2 more images may come out dark" in said[0]
    assert "16,383" in said[0]
