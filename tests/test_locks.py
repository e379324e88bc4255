"""One process at a time works in a run."""

import json
import multiprocessing
import os
import signal
import time

import pytest
from claimed import RESULT, make
from crash import ended, fork, wait_for

from cikd_cli.errors import CikdError
from cikd_cli.runs import locks
from cikd_cli.runs.directory import RunDir


def hold_until_killed(path, ready):
    with RunDir.open(path, finished=False).lock():
        ready.set()
        signal.pause()


def test_a_second_process_is_refused_and_a_killed_one_leaves_the_run_free(tmp_path):
    run = make(tmp_path, done=False)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=hold_until_killed, args=(run.path, ready))
    other.start()
    assert ready.wait(30)
    assert run.status == "running"
    with pytest.raises(CikdError, match=f"in use by process {other.pid} on "), run.lock():
        pass
    other.kill()
    other.join()
    assert run.status == "interrupted"
    with run.lock():
        assert run.is_locked()


def test_the_lock_file_goes_with_the_lock(tmp_path):
    run = make(tmp_path)
    with run.lock():
        assert (run.path / ".lock").exists()
    assert not (run.path / ".lock").exists()


def test_a_killed_process_frees_its_run_though_its_workers_live(tmp_path):
    run = make(tmp_path, done=False)
    ready = tmp_path / "ready"

    def work():  # it writes itself: a worker that has not run yet still shares the lock
        ready.write_text(json.dumps(os.getpid()))
        time.sleep(60)

    def hold():
        with locks.hold(run.path):
            fork(work)
            time.sleep(60)

    pid = fork(hold)
    wait_for(lambda: ready.exists() and ready.read_text(), pid)
    try:
        assert run.is_locked()
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        with run.lock():
            pass
    finally:
        os.kill(json.loads(ready.read_text()), signal.SIGKILL)


def test_a_run_is_not_taken_over_while_a_launched_process_of_a_killed_command_writes_on(tmp_path):
    run = make(tmp_path, done=False)

    def write():
        with locks.hold(run.path, locks.WRITER):
            time.sleep(60)

    pid = fork(write)
    wait_for(run.is_locked, pid)
    with pytest.raises(CikdError, match=f"in use by process {pid} on "), run.lock():
        pass
    assert run.status == "running"
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    with run.lock():
        pass
    assert sorted(path.name for path in run.path.iterdir()) == ["config.toml", "run.json"]


def test_a_run_that_another_process_went_on_with_meanwhile_is_left_to_it(tmp_path):
    run = make(tmp_path, done=False)
    stale = RunDir.open(run.path, finished=False)
    run.finish(RESULT)
    with pytest.raises(CikdError, match="has gone on with"), stale.lock():
        pass
