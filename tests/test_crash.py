"""Whatever moment a process is killed at, its run goes on from there and ends as if nothing had happened."""

import itertools
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from crash import blows, command, die, differences, ended, fork, live, strike, torture
from test_runs import make
from torch import nn

from cikd_cli.engine import fit
from cikd_cli.engine.checkpoint import LAST, PREVIOUS, Progress, load_checkpoint, save_checkpoint
from cikd_cli.errors import EXIT_INTERRUPTED, CikdError
from cikd_cli.files import remove_leftovers, write_atomically
from cikd_cli.runs import locks
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.lineage import all_runs, damaged_runs

KILLS = 21


def lm_words(recipe, epochs, *, keep=7, save="0.02s"):
    words = ("lm", "--teacher", "runs/teacher", "--recipe", recipe, "--epochs", epochs)
    return (*words, "--set", f"keep_every={keep}", "--save-every", save, "--quiet")


# ---- the writer, at every system call ----


def network(step):
    """A network and its optimizer, every number of them equal to `step`."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with torch.no_grad():
        for tensor in (*model.parameters(), *(m for s in optimizer.state.values() for m in s.values())):
            tensor.fill_(step)
    return model, optimizer


def save(run, step, **settings):
    model, optimizer = network(step)
    save_checkpoint(run, model=model, optimizer=optimizer, average=None, progress=Progress(step), **settings)


def load(run, told=None):
    """The step of the checkpoint that is restored; every number restored has to be of that step."""
    model, optimizer = network(-1)
    warn = (told if told is not None else []).append
    progress = load_checkpoint(run, model=model, optimizer=optimizer, average=None, warn=warn)
    tensors = (*model.parameters(), *(m for s in optimizer.state.values() for m in s.values()))
    assert {float(x) for tensor in tensors for x in tensor.detach().flatten()} == {progress.step or -1.0}
    return progress.step


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


def tear(path):
    path.write_bytes(path.read_bytes()[:-100])


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


# ---- checkpoints that are not what was written ----


@pytest.mark.parametrize("byte", [3, 40, 200, -1], ids=["length", "header", "checksum", "tensor"])
def test_a_flipped_bit_is_found_and_named_and_the_previous_checkpoint_taken(tmp_path, byte):
    run = make(tmp_path, done=False)
    save(run, 1)
    save(run, 2)
    last, told = run.checkpoints / LAST, []
    content = bytearray(last.read_bytes())
    content[byte] ^= 4
    last.write_bytes(content)
    assert load(run, told) == 1
    assert "last.safetensors is damaged" in told[0]


def test_any_flipped_bit_of_a_checkpoint_is_found(tmp_path):
    run = make(tmp_path, done=False)
    save(run, 1)
    last = run.checkpoints / LAST
    whole = last.read_bytes()
    for place in range(0, 8 * len(whole), 13):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        last.write_bytes(content)
        with pytest.raises(CikdError, match=r"last\.safetensors is damaged"):
            load(run)


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path):
    run, other = make(tmp_path, done=False), make(tmp_path, done=False)
    save(run, 1)
    save(run, 2)
    save(other, 9)
    shutil.copy(other.checkpoints / LAST, run.checkpoints / LAST)
    told = []
    assert load(run, told) == 1
    assert "last.safetensors belongs to another run" in told[0]


def test_when_last_and_previous_are_torn_a_periodic_checkpoint_is_taken(tmp_path):
    run = make(tmp_path, done=False)
    for step in (1, 2, 3):
        save(run, step, keep_as=f"epoch-{step:04d}" if step < 3 else None)
    for name in (LAST, PREVIOUS):
        tear(run.checkpoints / name)
    told = []
    assert load(run, told) == 2
    assert len(told) == 2


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_when_no_checkpoint_is_whole_that_is_a_sentence_and_nothing_changes(cikd, teacher):
    for path in Path(teacher, "checkpoints").iterdir():
        tear(path)
    before = contents("runs")
    said = cikd("finetune-teacher", "--resume", teacher, "--epochs", "5", code=2).output
    assert "last.safetensors is damaged" in said
    assert "start a new run" in said
    assert contents("runs") == before


def test_a_finished_run_without_checkpoints_is_not_trained_anew_in_place(cikd, teacher):
    shutil.rmtree(Path(teacher, "checkpoints"))
    before = contents("runs")
    assert "no checkpoint any more" in cikd("finetune-teacher", "--resume", teacher, "--epochs", "5", code=2).output
    assert contents("runs") == before


# ---- signals and the clock of saving ----


def wait_for(condition, pid, within=60):
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it has ended"
        time.sleep(0.005)


def test_sigusr1_saves_and_the_run_goes_on(cikd, teacher, recipe, tmp_path):
    words = (*lm_words(recipe, 4000, keep=0, save="2h"), "--name", "warned")
    run, said = Path("runs/warned"), tmp_path / "said.txt"

    def epochs():
        return (run / "metrics.jsonl").read_text().count("\n") if (run / "metrics.jsonl").exists() else 0

    pid = fork(lambda: command(words), said)
    try:
        wait_for(lambda: epochs() >= 2, pid)
        assert not (run / "checkpoints").exists()
        os.kill(pid, signal.SIGUSR1)
        wait_for((run / "checkpoints" / LAST).exists, pid)
        saved = epochs()
        wait_for(lambda: epochs() >= saved + 2, pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        ended(pid)
    assert not (run / "checkpoints" / PREVIOUS).exists()


def tell_saves(signal_in_step=None, number=None):
    """In a child: print the step of every checkpoint, and signal ourselves within a step, counted from 1."""
    save, train, steps = fit.save_checkpoint, fit.train_step, itertools.count(1)

    def saved(run, *, progress, **settings):
        save(run, progress=progress, **settings)
        print(progress.step)  # noqa: T201

    def trained(*given, **named):
        if next(steps) == signal_in_step:
            os.kill(os.getpid(), number)
        return train(*given, **named)

    fit.save_checkpoint, fit.train_step = saved, trained


def saved_steps(said):
    return [int(line) for line in said.read_text().splitlines() if line.isdigit()]


def test_save_every_in_epochs_saves_after_these_epochs_only(cikd, teacher, recipe, tmp_path):
    words, said = (*lm_words(recipe, 9, keep=0, save="4e"), "--name", "counted"), tmp_path / "said.txt"
    assert live(words, said=said, before=tell_saves) == 0
    assert saved_steps(said) == [4 * 3, 8 * 3, 9 * 3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_after_the_very_step_that_it_came_in(cikd, teacher, recipe, tmp_path, number):
    words, said = (*lm_words(recipe, 4, keep=0, save="2h"), "--name", "signalled"), tmp_path / "said.txt"
    goes_on = number == signal.SIGUSR1
    code = live(words, said=said, before=lambda: tell_saves(5, number))
    assert code == (0 if goes_on else EXIT_INTERRUPTED)
    assert saved_steps(said) == ([5, 12] if goes_on else [5])


@pytest.mark.parametrize("text", ["soon", "5x", "0", "-1", "1.5e", "e", "0e"])
def test_a_wrong_save_every_is_one_sentence(cikd, teacher, recipe, text):
    said = cikd("ali", "--teacher", teacher, "--recipe", recipe, "--save-every", text, code=2).output
    assert "save_every must be a time such as 30s, 10m or 2h" in said
    assert not Path("runs/ali-001").exists()


# ---- locks ----


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
        with run.lock_as_writer():
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
    run.finish({})
    with pytest.raises(CikdError, match="has gone on with"), stale.lock():
        pass
