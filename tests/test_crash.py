"""Whatever moment a process is killed at, its run goes on from there and ends as if nothing had happened."""

import itertools
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from claimed import make
from crash import blows, die, differences, ended, fork, live, lm_words, strike, torture, wait_for
from numbered import load, save, tear

from cikd_cli.engine.checkpoint import LAST, PREVIOUS
from cikd_cli.errors import CikdError
from cikd_cli.files import remove_leftovers, write_atomically
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.lineage import all_runs, damaged_runs

KILLS = 21


def killed_at_every_call(tmp_path, run, act):
    """(call, run) for each writing call of `act(run)`: a copy of `run` in which a process was killed at that call."""
    for call in itertools.count(1):
        copy = RunDir.open(shutil.copytree(run.path, tmp_path / f"copy-{call}" / run.path.name), finished=False)

        def deed(copy=copy, call=call):
            strike(copy.path, at=call)
            act(copy)

        code = ended(fork(deed, tmp_path / "said.txt"))
        if code == 0:
            return
        assert code == -signal.SIGKILL, (tmp_path / "said.txt").read_text()
        yield call, copy


@pytest.mark.parametrize("torn", [False, True], ids=["both whole", "last torn"])
def test_killed_at_any_call_of_its_writer_a_checkpoint_is_the_old_one_or_the_new_one(tmp_path, torn):
    run = make(tmp_path / "runs", done=False)
    save(run, 1)
    save(run, 2)
    if torn:
        tear(run.checkpoints / LAST)

    def go_on(run):
        load(run)
        save(run, 3, keep_as=None if torn else "epoch-0001")

    steps = []
    for call, copy in killed_at_every_call(tmp_path, run, go_on):
        steps.append(load(copy))
        with copy.lock():
            pass
        left = {path.name for path in copy.checkpoints.iterdir()}
        assert left <= {LAST, PREVIOUS, "epoch-0001.safetensors"}, call
        if steps[-1] == 3 and not torn:
            assert "epoch-0001.safetensors" in left
    assert steps == sorted(steps)
    assert set(steps) == ({1, 3} if torn else {2, 3})
    assert len(steps) >= (8 if torn else 14)


def test_killed_at_any_call_of_a_claim_the_next_one_finds_order(tmp_path):
    first = make(tmp_path / "runs")
    for call in itertools.count(1):
        runs_dir = shutil.copytree(first.path.parent, tmp_path / f"copy-{call}")

        def claim(runs_dir=runs_dir, call=call):
            strike(runs_dir, at=call)
            make(runs_dir, done=False)

        if ended(fork(claim)) == 0:
            break
        assert make(runs_dir).path.name in ("ali-002", "ali-003")
        assert damaged_runs(runs_dir) == []
        assert {run.status for run in all_runs(runs_dir)} <= {"done", "interrupted"}
        assert not list(runs_dir.glob(".*.tmp"))
    assert call > 15


def test_killed_at_any_call_while_its_config_is_rewritten_a_run_opens_with_the_old_or_the_new_one(tmp_path):
    run = make(tmp_path / "runs", done=False)
    seen = set()
    for _, copy in killed_at_every_call(tmp_path, run, lambda run: run.write_config({"epochs": 41})):
        seen.add(RunDir.open(copy.path, finished=False).config().get("epochs"))
    assert seen == {None, 41}


def test_a_folder_that_was_claimed_and_no_more_is_named_with_what_to_do(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(CikdError, match=r"mine exists already, without a run\.json") as raised:
        make(tmp_path, name="mine")
    assert "rm -r" in raised.value.hint


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    def write(name, pause):
        strike(tmp_path, at=1, calls=("replace",), act=pause)
        write_atomically(tmp_path / name, b"content")

    def wait(real, name, *paths):
        (tmp_path / "writing").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        real(*paths)

    assert ended(fork(lambda: write("dead", die))) == -signal.SIGKILL
    pid = fork(lambda: write("alive", wait))
    wait_for((tmp_path / "writing").exists, pid)
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.glob(".*.tmp")] == [f".alive.{pid}.tmp"]
    (tmp_path / "go").touch()
    assert ended(pid) == 0
    assert (tmp_path / "alive").read_bytes() == b"content"


# ---- a whole command ----


def test_a_run_killed_again_and_again_ends_in_the_weights_of_one_that_never_was(cikd, teacher, recipe, tmp_path):
    words, said = lm_words(recipe, 10), tmp_path / "said.txt"
    begun = time.monotonic()
    assert live((*words, "--name", "straight"), said=said) == 0, said.read_text()
    length, draw, deaths = time.monotonic() - begun, random.Random(0), 0
    for number in itertools.count(1):  # the run may be done before it has died so often
        deaths += torture(words, f"broken-{number}", blows(KILLS - deaths, length, draw), said=said).total()
        assert differences(Path("runs/straight"), Path(f"runs/broken-{number}")) == []
        if deaths == KILLS:
            break
