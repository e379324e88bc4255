"""What is handed on with a student says nothing of the machine that made it: its card, its weights, its page."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard

from cikd_cli.reports.card import header
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.methods import LmConfig
from cikd_cli.text import clean

SHORT = ("--epochs", "1", "--set", "warmup=0")


@pytest.fixture
def home(tmp_path, monkeypatch, photos, recipe):
    """A home folder that is told by its user's name, with pictures and a recipe in it."""
    folder = tmp_path / "homes" / "alice"
    shutil.copytree(photos, folder / "secret-project" / "photos")
    shutil.copyfile(recipe, folder / "tiny.toml")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USER", "alice")
    return folder


def tells_nothing(text):
    return not re.search("alice|secret-project|homes|pytest|/tmp", text)


@pytest.fixture
def student(cikd, home):
    """A student of which everything that can be a path is one, in a folder of runs apart from its parents'."""
    common = ("--recipe", home / "tiny.toml", *SHORT)
    cikd("finetune-teacher", "--data", home / "secret-project/photos", *common, "--runs-dir", home / "first")
    weights = home / "first/teacher-001/model.safetensors"
    (home / "mine.toml").write_text("flip = 0.25\n")
    words = ("--data", home / "secret-project/photos", "--data-root", home / "sets", "--teacher", weights)
    cikd("finetune-teacher", *words, *common, "--runs-dir", home / "second")
    cikd("ali", "--teacher", home / "second/teacher-001", *common, "--runs-dir", home / "third")
    words = ("--from", home / "third/ali-001", "--teacher-cache", home / "logits", "--config", home / "mine.toml")
    cikd("lm", *words, *common, "--runs-dir", home / "fourth")
    return home / "fourth/lm-001"


def test_a_card_names_runs_and_data_and_no_place_of_the_machine(cikd, home, student):
    config = RunDir.open(student).config()
    places = {key for key, value in config.items() if isinstance(value, str) and str(home) in value}
    assert places == {"data", "data_root", "teacher", "from_run", "teacher_cache"} < set(LmConfig.model_fields)
    cikd("eval", student, "--set", "latency=false")
    card = (student / "model_card.md").read_text()
    assert tells_nothing(card)
    assert not re.search(r"[\w.]*/[\w.]+/", card)
    for said in ("# lm-001", "photos: 30 training", "- ali: ali-001", "teacher teacher-001", "- flip = 0.25"):
        assert said in card.replace("\\", "")
    shown = set(re.findall(r"^- (\w+) = ", card, re.MULTILINE))
    assert shown == set(config) - places


def test_the_head_of_a_card_says_what_the_hub_reads(cikd, home, student):
    told = json.loads(cikd("eval", student, "--set", "latency=false", "--json").stdout)
    card = ModelCard.load(student / "model_card.md")
    assert card.content.startswith("---\nlibrary_name: cikd\n")
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.dataset_type, result.dataset_split) == ("photos", "imagefolder", "test")
    assert (result.metric_type, result.metric_value) == ("accuracy", pytest.approx(told["top1"] / 100, abs=1e-4))
    assert (card.data.model_name, card.data.pipeline_tag) == ("lm-001", "image-classification")
    assert card.data.tags == ["image-classification", "knowledge-distillation"]
    assert card.data.license is card.data.datasets is card.data.base_model is None  # nobody has said


def read(head):
    return ModelCard(f"---\n{head}\n---\n").data


def test_a_named_set_is_a_data_set_of_the_hub_and_labels_alone_are_no_distillation():
    found = read(header("lm-002", "cifar100", 81.234567, distilled=False))
    assert (found.datasets, found.tags) == (["cifar100"], ["image-classification"])
    assert found.eval_results[0].metric_value == 0.8123


NAMES = ("a: #b", "- [x]", "---", "'\"", "\u202e? y", "\x1b[2J", "w " * 90 + "w", "\udcff", "三色堇")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_kind_come_through_the_head_of_a_card(name):
    lines = header(name, f"/x/{name}", 50, distilled=True).split("\n")
    found = read("\n".join(map(clean, lines)))
    assert found.model_name == found.eval_results[0].dataset_name == clean(name)


def test_the_weights_say_nothing_of_the_machine(home, student):
    for run in (student, home / "second/teacher-001", home / "third/ali-001"):
        assert tells_nothing((run / "model.safetensors").read_bytes().decode("latin-1"))


def test_the_page_of_a_curriculum_shows_the_command_as_typed_and_no_other_place(cikd, home):
    words = ("--data", home / "secret-project/photos", "--recipe", home / "tiny.toml", "--runs-dir", home / "runs")
    cikd("run", *words, "--set", "epochs=1", "--set", "warmup=0")
    page = (home / "runs/lm-001/report.html").read_text()
    pictures = r"base64,[^\"]*"
    before, _, after = re.sub(pictures, "", page).partition("<pre>")
    assert tells_nothing(before)
    assert tells_nothing(after.partition("</pre>")[2])
    assert "cikd on photos" in before
    assert "<td>lm-001</td>" in before
