"""`cikd config` and `cikd runs`: every value with its source, and the tree of runs."""

import json
import re

import pytest
from claimed import RESULT, whole
from typed import cikd

from cikd_cli.runs.directory import RunDir


def test_config_shows_every_value_and_its_source():
    shown = cikd("config", "ali", "--data", "flowers", "--epochs", "7").stdout.splitlines()
    cells = {line.split()[0]: re.split("  +", line)[1:] for line in shown}
    assert cells["epochs"] == ["7", "flag", "Passes over the training images."]
    assert cells["batch_size"] == ["64", "recipe flowers", "Images a step, over all processes."]
    assert cells["betas"] == ["0.9,0.95", "default", "AdamW betas."]
    assert cells["mean"][2].endswith("[default: the teacher's pretraining statistics]")


@pytest.mark.parametrize("command", ["ali", "run", "eval"])
def test_config_fits_a_terminal_of_80_columns(command):
    lines = cikd("config", command, COLUMNS="80").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    knobs = [line.split()[0] for line in lines[1:] if line[0] != " "]
    assert len(knobs) == len(set(knobs)) > 5


def test_config_run_shows_all_three_stages_as_json():
    config = json.loads(cikd("config", "run", "--set", "ali.epochs=5", "--json").stdout)["config"]
    assert config["ali.epochs"] == {"value": 5, "source": "--set"}
    assert {key.split(".")[0] for key in config} == {"finetune_teacher", "ali", "lm", "baseline"}


def test_config_shows_what_a_parent_hands_on_and_refuses_a_contradiction(tmp_path):
    config = {"data": "digits", "image_size": 64}
    run = RunDir.create(tmp_path, "ali", prefix="ali", name=None, record=whole(data={"classes": 10}), config=config)
    run.finish(RESULT)
    shown = cikd("config", "lm", "--from", str(run.path)).stdout
    assert f"from {run.path}" in next(line for line in shown.splitlines() if line.startswith("image_size"))
    refused = cikd("config", "lm", "--from", str(run.path), "--image-size", "32")
    assert refused.exit_code == 2
    assert "image_size 32 contradicts" in refused.stderr


def test_runs_shows_the_tree_and_a_run_nobody_holds_as_interrupted(tmp_path):
    run = RunDir.create(tmp_path, "ali", prefix="ali", name=None, record=whole(), config={})
    shown = cikd("runs", "--runs-dir", str(tmp_path)).stdout
    assert str(run.path) in shown
    assert "interrupted" in shown
    listed = json.loads(cikd("runs", "--runs-dir", str(tmp_path), "--json").stdout)
    assert listed["runs"][0]["status"] == "interrupted"


def test_runs_says_so_where_there_are_none(tmp_path):
    assert "no runs in" in cikd("runs", "--runs-dir", str(tmp_path)).stdout


def test_runs_names_a_run_it_cannot_read_and_lists_the_others(tmp_path):
    fine = RunDir.create(tmp_path, "ali", prefix="ali", name=None, record=whole(), config={})
    broken = RunDir.create(tmp_path, "ali", prefix="ali", name=None, record=whole(), config={})
    (broken.path / "run.json").write_text("{")
    shown = cikd("runs", "--runs-dir", str(tmp_path))
    assert str(fine.path) in shown.stdout
    assert f"{broken.path} is left out" in shown.stderr


def test_config_shows_what_a_teacher_hands_on(tmp_path):
    config = {"data": "digits", "image_size": 64}
    run = RunDir.create(tmp_path, "finetune-teacher", prefix="teacher", name=None, record=whole(), config=config)
    run.finish(RESULT)
    shown = cikd("config", "ali", "--teacher", str(run.path)).stdout
    assert f"from {run.path}" in next(line for line in shown.splitlines() if line.startswith("image_size"))
