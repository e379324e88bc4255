"""A tiny curriculum: three classes of coloured 16-pixel squares, a two-block teacher from scratch, a small student."""

import os
import shutil
import signal
from contextlib import chdir
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tiny networks, and tests that share a machine

import pytest
from tiny import RECIPE, draw_photos
from typer.testing import CliRunner

from cikd_cli.cli.app import app

signal.signal(signal.SIGINT, signal.default_int_handler)  # which whoever started the tests, nohup say, may have ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder with train/ and test/ of pictures."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    draw_photos(folder)
    return folder


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def cikd(tmp_path, monkeypatch):
    """Run a command line in a folder of its own; refuses any outcome but the expected exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        outcome = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "TERM": "dumb"})
        assert outcome.exit_code == code, f"{words}\n{outcome.output}\n{outcome.exception!r}"
        return outcome

    return run


@pytest.fixture
def teacher(cikd, photos, recipe):
    """A finished teacher run."""
    cikd("finetune-teacher", "--data", photos, "--recipe", recipe, "--name", "teacher", "--quiet")
    return "runs/teacher"


@pytest.fixture
def passes(monkeypatch):
    """How many images each call of the real teacher saw; `at(n, act)` acts within the n-th call of the next run."""

    from cikd_cli.models.frozen import FrozenTeacher

    class Passes(list):
        def at(self, number, act):
            self.when, self.act = number, act
            self.clear()

    seen, direct = Passes(), FrozenTeacher.logits

    def counted(teacher, images):
        seen.append(len(images))
        if getattr(seen, "when", 0) == len(seen):
            seen.act()
        return direct(teacher, images)

    monkeypatch.setattr(FrozenTeacher, "logits", counted)
    return seen


@pytest.fixture(scope="session")
def trained(tmp_path_factory, photos, recipe):
    """runs/: teacher, other (a teacher too), lm and second, both of `teacher`."""
    with chdir(tmp_path_factory.mktemp("trained")):
        for words in (
            ("finetune-teacher", "--data", photos, "--name", "teacher"),
            ("finetune-teacher", "--data", photos, "--name", "other", "--seed", "1"),
            ("lm", "--teacher", "runs/teacher", "--name", "lm"),
            ("lm", "--teacher", "runs/teacher", "--name", "second", "--seed", "1"),
        ):
            words = (*words, "--recipe", recipe, "--epochs", "1", "--set", "warmup=0", "--quiet")
            outcome = CliRunner().invoke(app, [str(word) for word in words])
            assert outcome.exit_code == 0, outcome.output
        return Path("runs").resolve()


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """A copy of them in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "runs")
    return Path("runs")
