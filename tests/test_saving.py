"""Signals and the clock decide when a run is saved."""

import itertools
import os
import signal
from pathlib import Path

import pytest
from crash import command, ended, fork, live, lm_words, wait_for

from cikd_cli.engine import fit, step
from cikd_cli.engine.checkpoint import LAST, PREVIOUS
from cikd_cli.errors import EXIT_INTERRUPTED


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
    save, train, steps = step.save_checkpoint, fit.train_step, itertools.count(1)

    def saved(run, *, progress, **settings):
        save(run, progress=progress, **settings)
        print(progress.step)  # noqa: T201

    def trained(*given, **named):
        if next(steps) == signal_in_step:
            os.kill(os.getpid(), number)
        return train(*given, **named)

    step.save_checkpoint, fit.train_step = saved, trained


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
