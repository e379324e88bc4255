"""What a parent run hands down: the same for `cikd config` as for the stage itself."""

import json

import pytest

from cikd_cli.runs.directory import RunDir

RUNS_ON = {"precision", "compile"}  # settled by the machine when the stage begins


@pytest.mark.parametrize(
    "words",
    [
        ["ali", "--teacher", "runs/teacher"],
        ["ali", "--data", "photos"],
        ["lm", "--from", "runs/first"],
        ["ali", "--from", "runs/first", "--lob", "1"],
        ["lm", "--data", "photos", "--no-distill"],
    ],
    ids=" ".join,
)
def test_config_shows_what_the_stage_then_uses(cikd, photos, recipe, teacher, words):
    words = [str(photos) if word == "photos" else word for word in words]
    cikd("ali", "--teacher", "runs/teacher", "--name", "first", "--epochs", 1, "--quiet")
    shown = json.loads(cikd("config", *words, "--epochs", 1, "--json").stdout)["config"]
    cikd(*words, "--epochs", 1, "--name", "second", "--quiet")
    used = RunDir.open("runs/second").config()
    paths = {"data", "data_root", "teacher", "from_run"}  # whole in a run
    for key in set(used) - RUNS_ON - paths:
        assert shown[key]["value"] == used[key], key
    assert {key for key in paths & set(used) if shown[key]["value"] is None} == set()


def test_config_without_any_teacher_shows_the_recipe(cikd):
    shown = json.loads(cikd("config", "ali", "--data", "digits", "--json").stdout)["config"]
    assert shown["teacher"]["value"] is None
    assert shown["image_size"] == {"value": 32, "source": "recipe digits"}
