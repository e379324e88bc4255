"""Time of a run: every step that is done counts, and no guess is made before two are."""

import pytest

from cikd_cli.engine import clock as clocks
from cikd_cli.engine.clock import Clock, Every
from cikd_cli.progress import Bar
from cikd_cli.runs.directory import RunDir


@pytest.fixture
def after(monkeypatch):
    """Let time go on by so many seconds, and only so."""
    now = [100.0]
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now[0])

    def go_on(seconds):
        now[0] += seconds

    return go_on


def test_the_rate_is_right_after_the_first_step_and_after_each_later_one(after):
    clock = Clock(0.0, images=8)
    rates = []
    for _ in clock.waiting(range(4)):
        after(2)
        rates.append(clock.rate)
    assert rates == [4, 4, 4, 4]


def test_no_pace_is_known_before_two_steps_and_a_slow_first_one_does_not_count(after):
    clock, paces = Clock(0.0, images=8), []
    for step, _ in enumerate(clock.waiting(range(4))):
        after(60 if step == 0 else 2)
        paces.append(clock.pace)
    assert paces == [None, 2, 2, 2]


def test_what_comes_between_steps_is_part_of_the_pace(after):
    clock, paces = Clock(0.0, images=8), []
    for step, _ in enumerate(clock.waiting(range(3))):
        after(2)
        paces.append(clock.pace)
        if step == 1:
            after(1)  # scores, a checkpoint
    assert paces == [None, 2, 2 + 1 / 2]


def test_a_session_that_goes_on_measures_its_own_steps(after):
    clock, said = Clock(3600.0, images=8), []
    for _ in clock.waiting(range(1)):
        after(2)
        said.append((clock.rate, clock.pace, clock.seconds))
    assert said == [(4, None, 3602)]


def test_the_first_row_of_metrics_has_a_true_rate(cikd, photos, recipe):
    words = ("--data", photos, "--recipe", recipe, "--batch-size", "30", "--quiet")  # one step an epoch
    cikd("finetune-teacher", *words)
    for row in RunDir.open("runs/teacher-001").metrics():
        assert abs(30 * row["epoch"] / row["images_per_second"] - row["seconds"]) < 0.02, row  # seconds are rounded


def test_a_progress_line_guesses_no_end_before_two_steps_of_the_session(cikd, photos, recipe, monkeypatch):
    told, update = [], Bar.update
    monkeypatch.setattr(Bar, "update", lambda bar, *given: (told.append(given), update(bar, *given)))
    monkeypatch.setattr(Every, "due", lambda _: True)
    words = ("finetune-teacher", "--data", photos, "--recipe", recipe, "--set", "eval_every=9")
    cikd(*words, "--name", "whole")
    shown = [parts for _, epoch, *parts in told if epoch.startswith("epoch") and parts]
    assert [parts[0].partition(" ")[0] for parts in shown] == ["", *8 * ["eta"]]  # 3 epochs of 3 steps
    told.clear()
    cikd("finetune-teacher", "--resume", "runs/whole", "--epochs", "4")
    shown = [parts for _, epoch, *parts in told if epoch == "epoch 4/4" and parts]
    assert [parts[0].partition(" ")[0] for parts in shown] == ["", "eta", "eta"]
