"""A run that was stopped and continued ends in the very weights of a run that never stopped."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from cikd_cli.errors import EXIT_INTERRUPTED
from cikd_cli.runs.directory import RunDir

LONG = ("--epochs", "40", "--save-every", "0.001")


def stage_words(stage, photos, recipe):
    source = {
        "finetune-teacher": ("--data", photos),
        "ali": ("--teacher", "runs/teacher"),
        "lm": ("--teacher", "runs/teacher"),
    }[stage]
    return (stage, *source, "--recipe", recipe, *LONG)


@contextmanager
def stopped_after(epochs, run, number=signal.SIGTERM):
    """Send ourselves a signal, as a cluster would, somewhere in the epoch after `epochs` of `run` are done."""
    before = signal.signal(number, signal.SIG_IGN)  # in case training has ended by then
    over = threading.Event()

    def watch():
        metrics = Path(run) / "metrics.jsonl"
        while not over.wait(0.002):
            if metrics.exists() and metrics.read_text().count("\n") >= epochs:
                os.kill(os.getpid(), number)
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        signal.signal(number, before)


@pytest.mark.parametrize("stage", ["finetune-teacher", "ali", "lm"])
def test_a_run_stopped_again_and_again_equals_one_that_never_stopped(cikd, teacher, photos, recipe, stage):
    words = stage_words(stage, photos, recipe)
    cikd(*words, "--name", "straight", "--quiet")
    command = (*words, "--name", "broken", "--quiet")
    for epochs in (2, 11, 23):
        with stopped_after(epochs, "runs/broken"):
            cikd(*command, code=EXIT_INTERRUPTED)
        command = (stage, "--resume", "runs/broken", "--quiet")
    cikd(*command)
    straight, broken = Path("runs/straight"), Path("runs/broken")
    assert (straight / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()
    assert _rows(straight) == _rows(broken)


def test_a_killed_run_continues_from_its_last_checkpoint_to_the_same_weights(cikd, teacher, photos, recipe):
    words = stage_words("lm", photos, recipe)
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
    words = ("lm", "--teacher", teacher, "--recipe", recipe, "--epochs", "2000")
    with stopped_after(5, "runs/lm-001", signal.SIGINT):
        said = cikd(*words, code=EXIT_INTERRUPTED).output
    assert "cikd lm --resume runs/lm-001" in said
    assert RunDir.open("runs/lm-001", finished=False).record.status == "interrupted"


def test_a_finished_run_is_not_resumed_without_more_epochs(cikd, teacher):
    assert "--epochs" in cikd("finetune-teacher", "--resume", teacher, code=2).output


def test_more_epochs_continue_a_finished_run_and_say_what_becomes_of_the_schedule(cikd, teacher):
    said = cikd("finetune-teacher", "--resume", teacher, "--epochs", "5").output
    assert "3 → 5" in said
    assert [row["epoch"] for row in RunDir.open(teacher).metrics()] == [1, 2, 3, 4, 5]


def test_a_run_that_others_stand_on_is_not_trained_on(cikd, teacher, recipe):
    cikd("ali", "--teacher", teacher, "--recipe", recipe, "--epochs", "1", "--quiet")
    said = cikd("finetune-teacher", "--resume", teacher, "--epochs", "5", code=2).output
    assert "runs/ali-001 was made from runs/teacher" in said
    cikd("lm", "--from", "runs/ali-001", "--epochs", "1", "--quiet")


def test_fewer_epochs_are_refused_and_a_refused_resume_changes_nothing(cikd, teacher):
    before = {path: path.read_bytes() for path in Path(teacher).rglob("*") if path.is_file()}
    assert "fewer" in cikd("finetune-teacher", "--resume", teacher, "--epochs", "2", code=2).output
    cikd("finetune-teacher", "--resume", teacher, "--epochs", "9", "--dry-run")
    assert {path: path.read_bytes() for path in Path(teacher).rglob("*") if path.is_file()} == before


def test_a_run_on_a_folder_named_relatively_can_be_continued_and_sees_the_teachers_images(cikd, photos, recipe):
    shutil.copytree(photos, "pictures")
    split = ("--val", "0.2", "--fraction", "0.5", "--batch-size", "4")
    cikd("finetune-teacher", "--data", "./pictures", "--recipe", recipe, *split, "--quiet")
    with stopped_after(2, "runs/ali-001"):
        words = ("ali", "--data", "pictures", "--recipe", recipe, "--batch-size", "4", "--epochs", "400", "--quiet")
        cikd(*words, code=EXIT_INTERRUPTED)
    cikd("ali", "--resume", "runs/ali-001", "--quiet")
    fingerprints = [RunDir.open(f"runs/{name}-001").record.data.fingerprint for name in ("teacher", "ali")]
    assert fingerprints[0] == fingerprints[1]


def test_a_runs_config_repeats_the_run(cikd, teacher, recipe):
    cikd("ali", "--teacher", teacher, "--recipe", recipe, "--epochs", "2", "--quiet")
    cikd("ali", "--config", "runs/ali-001/config.toml", "--quiet")
    first, second = (Path(f"runs/ali-00{number}/model.safetensors").read_bytes() for number in (1, 2))
    assert first == second


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
    cikd("ali", "--resume", "runs/torn", "--epochs", "41", "--quiet")
    assert RunDir.open("runs/torn").metrics()[-1]["epoch"] == 41


def _rows(run):
    timing = ("seconds", "images_per_second", "waited_for_data")
    return [{key: value for key, value in row.items() if key not in timing} for row in RunDir.open(run).metrics()]
