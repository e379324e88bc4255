"""A run that was stopped and continued ends in the very weights of a run that never stopped."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cikd_cli.errors import EXIT_INTERRUPTED
from cikd_cli.runs import RunDir

LONG = ("--epochs", "12", "--save-every", "0.001")


def stage_words(stage, photos, recipe):
    source = {
        "finetune-teacher": ("--data", photos),
        "ali": ("--teacher", "runs/teacher"),
        "lm": ("--teacher", "runs/teacher"),
    }[stage]
    return (stage, *source, "--recipe", recipe, *LONG)


def stop_soon(seconds, number=signal.SIGTERM):
    """Send ourselves a signal, as a cluster would; the default action is off in case training has ended by then."""
    before = signal.signal(number, signal.SIG_IGN)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.start()
    return timer, before


@pytest.mark.parametrize("stage", ["finetune-teacher", "ali", "lm"])
def test_a_run_stopped_again_and_again_equals_one_that_never_stopped(cikd, teacher, photos, recipe, stage):
    words = stage_words(stage, photos, recipe)
    cikd(*words, "--name", "straight", "--quiet")
    stops, command = 0, (*words, "--name", "broken", "--quiet")
    for delay in (0.45, 0.7, 0.5, 0.9, 0.6, 0.8, 60):
        timer, before = stop_soon(delay)
        try:
            outcome = _either(cikd, command)
        finally:
            timer.cancel()
            timer.join()
            signal.signal(signal.SIGTERM, before)
        if outcome == 0:
            break
        stops += 1
        command = (stage, "--resume", "runs/broken", "--quiet")
    straight, broken = Path("runs/straight"), Path("runs/broken")
    assert stops >= 1
    assert (straight / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()
    assert _rows(straight) == _rows(broken)


def test_a_killed_run_continues_from_its_last_checkpoint_to_the_same_weights(cikd, teacher, photos, recipe):
    words = stage_words("lm", photos, recipe)
    cikd(*words, "--name", "straight", "--quiet")
    process = subprocess.Popen(
        [sys.executable, "-m", "cikd_cli", *map(str, words), "--name", "killed", "--epochs", "200", "--quiet"]
    )
    deadline = time.monotonic() + 120
    while not Path("runs/killed/checkpoints/previous.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert RunDir.open("runs/killed", finished=False).status == "interrupted"
    cikd("lm", "--resume", "runs/killed", "--quiet")
    cikd(*words, "--name", "whole", "--epochs", "200", "--quiet")
    killed, whole = Path("runs/killed"), Path("runs/whole")
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [row["epoch"] for row in RunDir.open(killed).metrics()] == list(range(1, 201))


def test_ctrl_c_saves_and_prints_the_command_that_continues(cikd, teacher, photos, recipe):
    timer, before = stop_soon(0.6, signal.SIGINT)
    try:
        said = cikd("lm", "--teacher", teacher, "--recipe", recipe, "--epochs", "2000", code=EXIT_INTERRUPTED).output
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert "cikd lm --resume runs/lm-001" in said
    assert RunDir.open("runs/lm-001", finished=False).record["status"] == "interrupted"


def test_a_finished_run_is_not_resumed_without_more_epochs(cikd, teacher):
    assert "--epochs" in cikd("finetune-teacher", "--resume", teacher, code=2).output


def test_more_epochs_continue_a_finished_run_and_say_what_becomes_of_the_schedule(cikd, teacher):
    said = cikd("finetune-teacher", "--resume", teacher, "--epochs", "5").output
    assert "3 → 5" in said
    assert [row["epoch"] for row in RunDir.open(teacher).metrics()] == [1, 2, 3, 4, 5]


def test_a_resumed_run_keeps_its_settings(cikd, teacher):
    assert "--lr" in cikd("finetune-teacher", "--resume", teacher, "--lr", "1", code=2).output


def test_changed_images_are_noticed_on_resume(cikd, teacher, photos, recipe, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(photos, copy)
    cikd("finetune-teacher", "--data", copy, "--recipe", recipe, "--name", "changed", "--epochs", "1", "--quiet")
    (copy / "train" / "bars" / "0.png").unlink()
    said = cikd("finetune-teacher", "--resume", "runs/changed", "--epochs", "2", code=2).output
    assert "have changed" in said


def test_a_torn_last_checkpoint_gives_way_to_the_previous_one(cikd, teacher, photos, recipe):
    words = stage_words("ali", photos, recipe)
    cikd(*words, "--name", "torn", "--quiet")
    last = Path("runs/torn/checkpoints/last.safetensors")
    previous = Path("runs/torn/checkpoints/previous.safetensors")
    assert previous.exists()
    last.write_bytes(last.read_bytes()[:1000])
    cikd("ali", "--resume", "runs/torn", "--epochs", "13", "--quiet")
    assert RunDir.open("runs/torn").metrics()[-1]["epoch"] == 13


def _either(cikd, command):
    """0 when the command finished, else the exit code of one that was stopped and saved."""
    try:
        cikd(*command)
    except AssertionError:
        assert RunDir.open("runs/broken", finished=False).record["status"] == "interrupted"
        return EXIT_INTERRUPTED
    return 0


def _rows(run):
    timing = ("seconds", "images_per_second", "waited_for_data")
    return [{key: value for key, value in row.items() if key not in timing} for row in RunDir.open(run).metrics()]
