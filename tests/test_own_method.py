"""A method that the program has never seen trains, is killed, resumes bit for bit and is evaluated."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).parent / "own_method.py"
LAST = "checkpoints/last.safetensors"


def command(photos, recipe, name, *words):
    options = ["--data", photos, "--recipe", recipe, "--name", name, "--gpus", "cpu", "--quiet", "--epochs", "6"]
    options += ["--image-size", "32", "--set", "drop_path=0.3", "--batch-size", "8", "--workers", "0"]
    return list(map(str, [sys.executable, SCRIPT, "own", *options, *words]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def whole(photos, recipe, folder):
    """A run that nothing has stopped."""
    subprocess.run(command(photos, recipe, "whole"), cwd=folder, check=True)
    return folder / "runs" / "whole"


@pytest.fixture(scope="module")
def resumed(photos, recipe, folder):
    """A run that was killed once it had saved something, and resumed."""
    going = subprocess.Popen(command(photos, recipe, "killed", "--save-every", "0.01s"), cwd=folder)
    run = folder / "runs" / "killed"
    while not (run / LAST).exists() and going.poll() is None:
        time.sleep(0.005)
    going.send_signal(signal.SIGKILL)
    assert going.wait() == -signal.SIGKILL
    subprocess.run(
        [sys.executable, SCRIPT, "own", "--resume", run, "--quiet", "--workers", "0"], cwd=folder, check=True
    )
    return run


def test_it_resumes_to_the_very_weights_of_a_run_that_was_never_stopped(whole, resumed):
    for file in ("model.safetensors", LAST):
        one, other = load_file(whole / file), load_file(resumed / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), file


def test_the_checkpoint_holds_all_that_is_trained_and_the_deliverable_the_student_alone(whole):
    saved, given = load_file(whole / LAST), load_file(whole / "model.safetensors")
    parts = {name.split(".")[1] for name in saved if name.startswith("method.")}
    assert parts == {"student", "guide", "projection"}
    statistics = {name.split(".")[1] for name in saved if name.endswith("running_mean")}
    assert statistics == {"student", "guide"}
    assert {f"method.student.{name}" for name in given} == {
        name for name in saved if name.startswith("method.student.")
    }
    fresh = [name for name in saved if name.endswith("num_batches_tracked")]
    assert all(saved[name] > 0 for name in fresh)


def test_what_it_trains_beside_the_student_has_moments_too(whole):
    saved = load_file(whole / LAST)
    trained = [name for name in saved if name.startswith("method.") and saved[name].is_floating_point()]
    trained = [name for name in trained if "running_" not in name]
    assert sum(name.endswith(".exp_avg") for name in saved) == len(trained)


def test_a_frozen_network_is_in_no_checkpoint_and_does_not_change(photos, recipe, folder):
    subprocess.run(command(photos, recipe, "frozen", "--frozen"), cwd=folder, check=True)
    saved = load_file(folder / "runs" / "frozen" / LAST)
    assert {name.split(".")[1] for name in saved if name.startswith("method.")} == {"student", "projection"}


def test_its_terms_are_logged_and_it_is_evaluated_as_any_other_run(whole, folder):
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all({"ce", "guidance", "guide_ce"} <= row.keys() for row in rows)
    words = [sys.executable, SCRIPT, "eval", whole, "--json", "--set", "latency=false"]
    done = subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True)
    scores = json.loads(done.stdout)
    assert scores["images"] > 0
    assert scores["teacher"] is None
    assert whole.samefile(scores["run"])
