"""Names and files from strangers are shown, drawn and written without being obeyed; secrets stay out of runs."""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from claimed import RESULT, whole
from foreign_weights import load_foreign
from PIL import Image

from cikd_cli.data.images import open_image
from cikd_cli.data.named import read_chaoyang
from cikd_cli.errors import CikdError
from cikd_cli.files import file_word, to_json
from cikd_cli.runs.ancestry import has_ancestor
from cikd_cli.runs.directory import RunDir
from cikd_cli.text import clean

NAMES = (
    "<script>alert(1)</script>".replace("/", "∕"),
    "line\nerror: forged",
    "\x1b[31mred\x1b]0;title\x07",
    "..",
    "[red]markup[/red]".replace("/", "∕"),
    "$\\frac{1",
    "{{ 7 * 7 }}",
    "\u202egnp.exe",
    "x" * 200,
    "a|b`c*",
)
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """A folder with a hostile name, of class folders with hostile names."""
    folder = tmp_path_factory.mktemp("data") / "pics\n\x1b[31m<b>"
    for number, name in enumerate(name for name in NAMES if name != ".."):
        (folder / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (16, 16), (number * 25, index * 40, 0)).save(folder / name / f"{index}\x1b[2J.png")
    return folder


def test_hostile_names_are_neutral_on_the_terminal_in_reports_in_pictures_and_in_file_names(cikd, strangers, recipe):
    words = ("--recipe", recipe, "--epochs", "1", "--batch-size", "8", "--set", "warmup=0")
    said = cikd("finetune-teacher", "--data", strangers, *words, "--name", "teacher").output
    said += cikd("lm", "--teacher", "runs/teacher", *words, "--name", "lm").output
    said += cikd("eval", "runs/lm", "--set", "latency=false").output
    others = shutil.copytree(strangers, f"{strangers}2")
    for number, path in enumerate(sorted(Path(others).rglob("*.png"))):
        Image.new("RGB", (16, 16), (0, number, 9)).save(path)
    said += cikd("eval", "runs/lm", "--data", others, "--set", "latency=false").output
    said += cikd("runs").output + cikd("eval", "runs/lm", "--data", f"{strangers}3", code=2).output
    assert not CONTROLS.search(said)
    assert not re.search("^error: forged", said, re.MULTILINE)
    assert "[red]markup" in said

    written = [path for path in Path("runs").rglob("*") if path.is_file()]
    assert not [path for path in written if not re.fullmatch(r"[\w./+-]+", str(path))]
    assert any("confusion-pics___31m_b_2" in path.name for path in written)
    for path in written:
        if path.suffix in (".md", ".json", ".svg", ".txt", ".html"):
            assert not CONTROLS.search(path.read_text(encoding="utf-8")), path
    card = Path("runs/lm/model_card.md").read_text()
    assert "<script" not in card.replace("\\<", "")
    assert "{{ 7 * 7 }}" in card.replace("\\", "")
    assert json.loads(Path("runs/lm/analysis/confusion.json").read_text())["classes"] == sorted(
        path.name for path in strangers.iterdir()
    )


def test_text_from_elsewhere_is_one_line_that_a_terminal_does_not_obey():
    for name in NAMES:
        assert not re.search("[\n\t]", clean(name))
        assert not CONTROLS.search(clean(name))
        assert json.loads(to_json([name])) == [name]
        assert not CONTROLS.search(to_json([name]))
        assert re.fullmatch(r"[\w.+-]{1,60}", file_word(name))


def test_no_secret_of_the_environment_is_written_into_a_run(cikd, photos, recipe, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "CIKD_SOMETHING"):
        monkeypatch.setenv(name, f"hf_secret-of-{name}")
    cikd("run", "--data", photos, "--recipe", recipe, "--set", "epochs=1", "--set", "warmup=0")
    files = [path for path in Path("runs").rglob("*") if path.is_file()]
    assert {"run.json", "log.txt", "report.html", "model_card.md"} <= {path.name for path in files}
    assert [path for path in files if b"hf_secret" in path.read_bytes()] == []


def test_no_file_asks_for_another_program(tmp_path, monkeypatch):
    """Pillow would start Ghostscript for PostScript, whatever the file is called."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "cat.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(CikdError, match="it is not an image"):
        open_image(tmp_path / "cat.jpg")
    assert not (tmp_path / "started").exists()


def test_a_list_of_images_stays_in_its_folder(tmp_path):
    for name in ("../../secret.png", "/etc/secret.png"):
        (tmp_path / "train.json").write_text(json.dumps([{"name": name, "label": 0}]))
        with pytest.raises(CikdError, match="lies outside"):
            read_chaoyang(tmp_path)


def test_a_weights_file_that_would_grow_in_memory_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"x": torch.zeros(3)}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry) + bytes(10**6))
    with pytest.raises(CikdError, match="is compressed"):
        load_foreign(tmp_path / "bomb.pth", "vit_tiny_patch16_224", num_classes=2, image_size=16)
    torch.save({"pos_embed": torch.zeros(1).expand(1, 10**9, 192)}, path)  # 4 bytes that say they are 768 GB
    with pytest.raises(CikdError, match="tensors are missing"):
        load_foreign(path, "vit_tiny_patch16_224", num_classes=2, image_size=16)


def test_runs_that_descend_from_each_other_are_a_sentence(tmp_path):
    for name, parent in (("a", "b"), ("b", "a")):
        record = {"parents": [{"stage": "lm", "knob": "from_run", "path": parent}]}
        RunDir.create(tmp_path, "ali", prefix="ali", name=name, record=whole(**record), config={}).finish(RESULT)
    with pytest.raises(CikdError, match="descends from itself"):
        has_ancestor(RunDir.open(tmp_path / "a"), "teacher")


def test_a_run_of_another_stage_in_its_record_never_reaches_a_command_to_copy(tmp_path):
    run = RunDir.create(tmp_path, "ali", prefix="ali", name="a", record=whole(), config={})
    record = json.loads((run.path / "run.json").read_text()) | {"stage": "ali; rm -rf ~"}
    (run.path / "run.json").write_text(json.dumps(record))
    with pytest.raises(CikdError, match="not written by cikd"):
        RunDir.open(run.path)


def test_a_run_of_a_stage_that_this_program_has_not_is_said_to_be_that(tmp_path):
    run = RunDir.create(tmp_path, "ali", prefix="ali", name="a", record=whole(), config={})
    record = json.loads((run.path / "run.json").read_text()) | {"stage": "mine"}
    (run.path / "run.json").write_text(json.dumps(record))
    with pytest.raises(CikdError, match="of the stage mine, which this program does not have"):
        RunDir.open(run.path)
