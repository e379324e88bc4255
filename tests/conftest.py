"""A tiny curriculum: three classes of coloured 16-pixel squares, a two-block teacher from scratch, a small student."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tiny networks, and tests that share a machine

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cikd_cli.cli import app

RECIPE = """
[common]
image_size = 16
batch_size = 8
epochs = 3
lr = 2e-3
warmup = 1
layer_decay = 1.0
precision = "fp32"
flip = 0.5
crop_scale = [0.5, 1.0]

[finetune-teacher]
teacher = "scratch"
teacher_width = 16
teacher_depth = 3
teacher_heads = 2
teacher_patch = 4

[ali]
student = "custom"
student_width = 8
student_depth = 3
student_heads = 1
drop_path = 0.3
lob = 2

[lm]
student = "custom"
student_width = 8
student_depth = 3
student_heads = 1
drop_path = 0.3
"""


def write_photos(folder):
    """train/ and test/: 3 classes, 10 + 4 images each, a noisy stripe in another direction a class."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(("bars", "dots", "rows")):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 90, (16, 16, 3))
                if label == 0:
                    pixels[:, ::4] += 140
                elif label == 1:
                    pixels[::4, ::4] += 160
                else:
                    pixels[::4] += 140
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{index}.png")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder as `write_photos` makes it."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    write_photos(folder)
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
