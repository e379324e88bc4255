"""Text that users write, in whatever encoding their editor saved it, and the lists and records that come through it."""

import json

import pytest
from claimed import whole
from PIL import Image

from cikd_cli.data.named import read_chaoyang
from cikd_cli.errors import CikdError
from cikd_cli.files import EncodingError, read_text
from cikd_cli.runs.metrics import read_metrics
from cikd_cli.runs.reading import read_record


@pytest.mark.parametrize("text", ["", "a = 1\n", "# café\r\n", "\ufeff", "漢字 \U0001f600", "a = 1\n\0\0\0"])
def test_text_of_utf_8_is_read_without_the_mark(tmp_path, text):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "text").write_bytes(text.lstrip("\ufeff").encode(encoding))
        assert read_text(tmp_path / "text", most=100) == text.lstrip("\ufeff")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", ["a = 1", "# café, naïve\n", '{"name": "x"}\n'])
def test_text_of_utf_16_and_32_is_named_with_or_without_a_mark(tmp_path, encoding, text):
    (tmp_path / "text").write_bytes(text.encode(encoding))
    with pytest.raises(EncodingError, match="it is UTF-") as caught:
        read_text(tmp_path / "text", most=10_000)
    named = str(caught.value).split()[2]
    assert text.encode(encoding).decode(named) == text
    assert f"iconv -f {named} -t UTF-8" in caught.value.hint


def test_a_path_in_the_hint_can_be_pasted(tmp_path):
    (tmp_path / "my recipe.toml").write_bytes(b"\xff")
    with pytest.raises(EncodingError) as caught:
        read_text(tmp_path / "my recipe.toml", most=10)
    assert f"'{tmp_path}/my recipe.toml'" in caught.value.hint


def chaoyang(folder, encoding):
    Image.new("RGB", (8, 8)).save(folder / "é.png")
    for part in ("train", "test"):
        rows = [{"name": "é.png", "label": label} for label in range(4)]
        (folder / f"{part}.json").write_bytes(json.dumps(rows, ensure_ascii=False, indent=1).encode(encoding))
    return folder


def test_a_list_of_images_with_a_mark_is_read_wherever_the_program_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("locale.getencoding", lambda: "ascii")
    assert len(read_chaoyang(chaoyang(tmp_path, "utf-8-sig")).train) == 4


@pytest.mark.parametrize(("encoding", "said"), [("utf-16", "it is UTF-16"), ("cp1252", "line 3 has the byte 0xe9")])
def test_a_list_of_images_in_another_encoding_says_how_to_save_it(tmp_path, encoding, said):
    with pytest.raises(CikdError, match=said) as caught:
        read_chaoyang(chaoyang(tmp_path, encoding))
    assert "choose UTF-8" in caught.value.hint


def test_records_with_a_mark_are_read(tmp_path):
    record = whole(stage="lm", status="done", format=2, id="x", started="now")
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8-sig")
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "loss": 2.0}\n', encoding="utf-8-sig")
    assert read_record(tmp_path).stage == "lm"
    assert read_metrics(tmp_path) == [{"epoch": 1, "loss": 2.0}]


def test_a_record_of_utf_16_is_said_to_be_that(tmp_path):
    (tmp_path / "run.json").write_text("{}", encoding="utf-16")
    with pytest.raises(CikdError, match="is damaged: it is UTF-16 and not UTF-8"):
        read_record(tmp_path)
