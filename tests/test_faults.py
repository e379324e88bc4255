"""A full disk, a closed folder, a missing parent, a second process, a wrong clock, another machine: a sentence each.

And the run stays as it was, so that it goes on as soon as the fault is mended.
"""

import errno
import os
import resource
import shutil
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from claimed import make
from crash import Blow, command, contents, differences, ended, fail, fork, live, strike, wait_for

from cikd_cli.engine import fit
from cikd_cli.engine.step import Training
from cikd_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED
from cikd_cli.runs import directory as runs_module
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.lineage import newest_run

SAVES = ("--save-every", "0.02s", "--quiet")
RESUME = ("lm", "--resume", "runs/broken", *SAVES)


@pytest.fixture
def said(tmp_path):
    return tmp_path / "said.txt"


@pytest.fixture(scope="module")
def made(tmp_path_factory, photos, recipe):
    """A folder of runs: `teacher`, `ali`, and from it `straight` and `broken`, which was stopped on its way."""
    folder = tmp_path_factory.mktemp("made")

    def stop_in_epoch_3():
        close = Training.close_epoch

        def closed(training, run, clock):
            close(training, run, clock)
            if training.epoch >= 3:
                os.kill(os.getpid(), signal.SIGTERM)

        os.chdir(folder)
        Training.close_epoch = closed

    def make_run(*words, before=lambda: os.chdir(folder), code=0):
        words = (*words, "--recipe", recipe, *SAVES)
        assert live(words, said=folder / "said.txt", before=before) == code, (folder / "said.txt").read_text()

    make_run("finetune-teacher", "--data", photos, "--name", "teacher", "--epochs", "3")
    make_run("ali", "--teacher", "runs/teacher", "--name", "ali", "--epochs", "1")
    lm = ("lm", "--from", "runs/ali", "--epochs", "12")
    make_run(*lm, "--name", "straight")
    make_run(*lm, "--name", "broken", before=stop_in_epoch_3, code=EXIT_INTERRUPTED)
    return folder


@pytest.fixture
def interrupted(cikd, made):
    """The run `broken`, in a copy of the folder `made`."""
    shutil.copytree(made / "runs", "runs")
    return Path("runs/broken")


def goes_on(said):
    """Resume the run `broken`, and find it equal to the one that was never stopped."""
    assert live(RESUME, said=said) == 0, said.read_text()
    assert differences(Path("runs/straight"), Path("runs/broken")) == []


# ---- disk full ----


def test_a_file_size_limit_ends_in_a_sentence_and_the_run_goes_on_later(interrupted, said):
    checkpoint = contents(interrupted / "checkpoints")

    def limit():
        size = (interrupted / "checkpoints/last.safetensors").stat().st_size - 1000
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    assert live(RESUME, said=said, before=limit) == EXIT_FAILED
    assert "No space left for runs/broken/checkpoints/last.safetensors" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert contents(interrupted / "checkpoints") == checkpoint
    goes_on(said)


def test_a_disk_that_is_full_at_any_write_ends_in_a_sentence_and_the_run_goes_on_later(interrupted, said):
    for write in (1, 2, 3, 4, 5, 7, 11):
        full = fail(errno.ENOSPC)

        def fill(write=write, full=full):
            strike(Path("runs"), at=write, act=full, calls=("write",), again=True)

        assert live(RESUME, said=said, before=fill) == EXIT_FAILED, write
        assert "error: No space left for" in said.read_text()
        assert "Traceback" not in said.read_text()
    goes_on(said)


def test_on_a_full_tmpfs_a_run_stops_with_a_sentence_and_goes_on_when_there_is_room(interrupted, said, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs can be mounted by root only")
    try:
        shutil.copytree("runs/teacher", small / "teacher")
        ballast = small / "ballast"
        words = ("finetune-teacher", "--resume", small / "teacher", "--epochs", "5", *SAVES)
        ballast.write_bytes(bytes(os.statvfs(small).f_bavail * os.statvfs(small).f_frsize - 40_000))
        assert live(words, said=said) == EXIT_FAILED
        assert f"No space left for {small}" in said.read_text()
        ballast.unlink()
        assert live(words[:3] + words[5:], said=said) == 0, said.read_text()
        assert [row["epoch"] for row in RunDir.open(small / "teacher").metrics()][:3] == [1, 2, 3]
    finally:
        subprocess.run(["umount", small], check=True)


# ---- a folder that cannot be written ----


def close_folder():
    strike(Path("runs"), at=1, act=refuse, again=True)


def refuse(real, name, first, *rest):
    """What a read-only file system does; reading goes on."""
    if name == "open" and not rest[0] & (os.O_WRONLY | os.O_RDWR):
        return real(first, *rest)
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(first))


def test_a_read_only_run_is_a_sentence_and_stays_as_it_was(interrupted, said):
    before = contents(interrupted)
    assert live(RESUME, said=said, before=close_folder) == 2
    assert "error: Cannot write runs/broken" in said.read_text()
    assert "read-only" in said.read_text()
    assert contents(interrupted) == before
    goes_on(said)


def test_a_new_run_in_a_read_only_folder_is_a_sentence(interrupted, recipe, said):
    before = contents("runs")
    words = ("ali", "--teacher", "runs/teacher", "--recipe", recipe, "--quiet")
    assert live(words, said=said, before=close_folder) == 2
    assert "--runs-dir" in said.read_text()
    assert contents("runs") == before


# ---- runs that went elsewhere ----


def test_a_deleted_parent_is_named_and_the_run_goes_on_when_it_is_back(cikd, interrupted, said):
    before = contents(interrupted)
    Path("runs/ali").rename("away")
    assert "There is no run runs/ali" in cikd(*RESUME, code=2).output
    assert contents(interrupted) == before
    Path("away").rename("runs/ali")
    goes_on(said)


def test_runs_copied_to_another_place_go_on_there(interrupted, said, tmp_path, monkeypatch):
    place = tmp_path / "elsewhere"
    shutil.copytree("runs", place / "runs")
    shutil.rmtree("runs")
    monkeypatch.chdir(place)
    goes_on(said)


# ---- two processes on one run ----


def test_a_second_process_is_told_who_works_on_the_run_and_since_when_and_does_not_disturb_it(cikd, interrupted, said):
    def slowly():
        step = fit.train_step

        def slow(*given, **named):
            time.sleep(0.02)
            return step(*given, **named)

        fit.train_step = slow
        command(RESUME)

    first = fork(slowly, said)
    wait_for(RunDir.open(interrupted, finished=False).is_locked, first)
    told = " ".join(cikd(*RESUME, code=2).output.split())
    assert f"runs/broken is in use by process {first} on {os.uname().nodename} since 20" in told
    assert ended(first) == 0
    assert differences(Path("runs/straight"), interrupted) == []


def test_the_lock_of_a_killed_process_is_taken_over(interrupted, said):
    assert live(RESUME, Blow(at_call=40), said=said) == -signal.SIGKILL
    assert (interrupted / ".lock").read_text().startswith("process ")
    goes_on(said)


# ---- clocks ----


def test_a_clock_that_goes_backwards_and_odd_file_times_change_nothing(interrupted, said):
    for number, path in enumerate(sorted(interrupted.rglob("*"))):
        os.utime(path, (number % 2 * 4e9, number % 2 * 4e9))  # 1970 and 2096

    def turn_back():
        real = time.time
        time.time = lambda: 2e9 - 100 * real()
        stamps = (datetime(2030, 1, 1, tzinfo=UTC) - timedelta(days=day) for day in range(100000))
        runs_module._now = lambda: next(stamps).isoformat()

    before = RunDir.open(interrupted, finished=False).record.seconds
    assert live(RESUME, said=said, before=turn_back) == 0, said.read_text()
    assert RunDir.open(interrupted).record.seconds > before
    assert differences(Path("runs/straight"), interrupted) == []


def test_the_newest_run_is_the_one_that_finished_last_whatever_the_clock_said(tmp_path, monkeypatch):
    make(tmp_path, "finetune-teacher")
    monkeypatch.setattr(runs_module, "_now", lambda: "1999-01-01T00:00:00.000+00:00")
    last = make(tmp_path, "finetune-teacher")
    assert newest_run(tmp_path, "teacher", data="digits").path == last.path
