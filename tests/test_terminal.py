"""The terminal as a person has it: what it shows while it trains, and what Ctrl-C does."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crash import command, ended, fork, live
from screen import LONG, Terminal, lm, shows_the_end
from test_distributed import FOUR_THOUSAND, epochs_of, launch_afresh

from cikd_cli.engine import fit
from cikd_cli.errors import EXIT_INTERRUPTED
from cikd_cli.runs.directory import RunDir
from cikd_cli.training import begin


def bars(snapshot):
    """The lines of a progress bar on a screen."""
    return [line for line in snapshot if "%" in line and "epoch" in line]


def trained(words, columns):
    """A terminal on which a training went on for some updates of its progress line, and was then stopped by Ctrl-C."""
    terminal = Terminal(lambda: command(words), columns)
    terminal.watch(shows_the_end)
    seen = len(terminal.drawn)
    terminal.watch(lambda terminal: len(terminal.drawn) >= seen + 8)
    terminal.type("\x03")
    return terminal


# ---- what it shows while it trains ----


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_epoch_percent_and_end_are_on_one_line_however_narrow_the_terminal_is(cikd, teacher, recipe, columns):
    terminal = trained(lm(teacher, recipe), columns)
    code, lines = terminal.end()
    assert code == EXIT_INTERRUPTED
    assert bars(lines) == []
    assert not any("^" in line for line in lines)
    assert "[progress" not in terminal.raw
    drawn = [bars(snapshot) for snapshot in terminal.drawn]
    assert max(map(len, drawn)) == 1
    known = [lines[0] for lines in drawn if lines and "eta" in lines[0]]
    assert len(known) >= 5
    for line in known:
        assert re.search(r"^epoch +\d+/4000 .* *\d+%  eta \d", line), line
        assert len(line) <= columns - 2 or line.endswith("^C")
        assert ("─" in line) == ("loss" in line) == (columns >= 80), line
        assert ("img/s" in line) == (columns >= 80)
        assert ("data wait" in line) == ("tckd" in line) == (columns >= 120)


@pytest.mark.parametrize("columns", [40, 80])
def test_several_students_share_one_line(cikd, teacher, recipe, columns):
    words = ("ali", "--teacher", teacher, "--recipe", recipe, *LONG, "--lob", "1,2")
    terminal = trained(words, columns)
    code, lines = terminal.end()
    assert code == EXIT_INTERRUPTED
    assert max(len(bars(snapshot)) for snapshot in terminal.drawn) == 1
    known = [bars(snapshot)[0] for snapshot in terminal.drawn if bars(snapshot)]
    assert re.search(r"^epoch +\d+/4000 .* *\d+%  eta \d", known[-1])
    assert any("loss ali-001" in line for line in known) == (columns == 80)
    said = "".join(lines)
    assert "cikd ali --resume runs/ali-001" in said
    assert "cikd ali --resume runs/ali-002" in said


# ---- Ctrl-C ----


def test_ctrl_c_on_a_terminal_is_no_error_and_says_how_to_go_on(cikd, teacher, recipe):
    terminal = trained(lm(teacher, recipe), 120)
    code, lines = terminal.end()
    assert code == EXIT_INTERRUPTED
    said = [line for line in lines if line][-2:]
    assert re.fullmatch(r"runs/lm-001 stopped after epoch \d+ of 4000, and is saved\.", said[0]), said
    assert said[1] == "continue it with  cikd lm --resume runs/lm-001"
    assert "error" not in terminal.raw
    assert "Traceback" not in terminal.raw
    log = Path("runs/lm-001/log.txt").read_text()
    assert log.splitlines()[-2:] == said
    assert Path("runs/lm-001/checkpoints/last.safetensors").exists()


def test_ctrl_c_on_a_terminal_is_told_once_by_several_processes(cikd, teacher, recipe):
    words = ("ali", "--teacher", teacher, "--recipe", recipe, *FOUR_THOUSAND)
    terminal = Terminal(lambda: launch_afresh(words), 120)
    terminal.watch(lambda _: epochs_of(Path("runs/ali-001")) >= 2, within=180)
    terminal.type("\x03")
    code, lines = terminal.end()
    assert code == EXIT_INTERRUPTED
    assert sum("stopped after epoch" in line for line in lines) == 1
    assert "error" not in terminal.raw
    assert "Traceback" not in terminal.raw


def test_ctrl_c_before_the_first_step_of_several_processes_is_told_once(cikd, teacher, recipe):
    words = ("ali", "--teacher", teacher, "--recipe", recipe, *FOUR_THOUSAND)
    terminal = Terminal(lambda: launch_afresh(words), 120)
    terminal.watch(lambda _: Path("runs/ali-001/log.txt").exists(), within=180)
    terminal.type("\x03")
    code, lines = terminal.end()
    assert code == EXIT_INTERRUPTED
    assert "Traceback" not in terminal.raw
    assert "error" not in terminal.raw
    said = [line for line in lines if line]
    assert said[-2] == "runs/ali-001 stopped before anything could be saved."
    assert said[-1] == "begin it again with  cikd ali --resume runs/ali-001"


def test_ctrl_c_while_the_program_is_loaded_leaves_one_sentence(photos, tmp_path):
    words = [sys.executable, "-m", "cikd_cli", "finetune-teacher", "--data", photos, "--teacher", "scratch"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{process.pid}/maps")
    while "/libtorch" not in maps.read_text():  # on its way, however long that takes
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (EXIT_INTERRUPTED, "Stopped before anything was made.\n"), said
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_between_the_claim_of_a_run_and_its_training_names_the_run(cikd, teacher, recipe, tmp_path):
    told, words = tmp_path / "said.txt", ("lm", "--teacher", teacher, "--recipe", recipe, "--quiet")

    def interrupt():
        def stop(*_):
            raise KeyboardInterrupt

        begin.train = stop

    assert live(words, said=told, before=interrupt) == EXIT_INTERRUPTED
    assert [line for line in told.read_text().splitlines() if not line.startswith("warning: each epoch")] == [
        "runs/lm-001 stopped before anything could be saved.",
        "begin it again with  cikd lm --resume runs/lm-001",
    ]
    assert RunDir.open("runs/lm-001", finished=False).record.status == "interrupted"
    cikd("lm", "--resume", "runs/lm-001", "--quiet")


def interrupt_in_step(number):
    """In a child: what a second Ctrl-C does, within a step, counted from 1."""
    train, steps = fit.train_step, iter(range(1, 10**6))

    def interrupted(*given, **named):
        if next(steps) == number:
            raise KeyboardInterrupt
        return train(*given, **named)

    fit.train_step = interrupted


@pytest.mark.parametrize(
    ("save", "said"),
    [
        ("1e", "runs/lm-001 stopped at once; the last checkpoint is of epoch 2 of 9.\ncontinue it with"),
        ("2h", "runs/lm-001 stopped before anything could be saved.\nbegin it again with"),
    ],
)
def test_a_stop_that_saves_nothing_says_what_was_saved_before(cikd, teacher, recipe, tmp_path, save, said):
    words = ("lm", "--teacher", teacher, "--recipe", recipe, "--epochs", "9", "--set", "keep_every=0")
    told = tmp_path / "said.txt"
    code = live((*words, "--save-every", save), said=told, before=lambda: interrupt_in_step(8))
    assert code == EXIT_INTERRUPTED
    assert f"{said}  cikd lm --resume runs/lm-001" in told.read_text()
    assert "error" not in Path("runs/lm-001/log.txt").read_text()
    said = cikd("lm", "--resume", "runs/lm-001", "--dry-run").output
    assert ("after epoch 2 of 9" if save == "1e" else "from its beginning: nothing was saved") in said


def test_a_curriculum_that_was_stopped_names_the_command_that_goes_on(cikd, photos, recipe, tmp_path):
    told = tmp_path / "said.txt"
    words = ("run", "--data", photos, "--recipe", recipe, "--fresh", "--quiet")
    assert live(words, said=told, before=lambda: interrupt_in_step(3)) == EXIT_INTERRUPTED
    assert f"cikd run --data {photos} --recipe {recipe} --quiet" in told.read_text()
    assert "cikd finetune-teacher --resume runs/teacher-001" in told.read_text()


def test_ctrl_c_in_an_analysis_of_a_curriculum_keeps_its_runs_and_says_so(cikd, photos, recipe, tmp_path):
    told, words = tmp_path / "said.txt", ("run", "--data", photos, "--recipe", recipe, "--quiet")

    def interrupt():
        import cikd_cli.stages.evaluate as stage

        def stop(_):
            raise KeyboardInterrupt

        stage.run = stop

    assert live(words, said=told, before=interrupt) == EXIT_INTERRUPTED
    said = [line for line in told.read_text().splitlines() if not line.startswith("warning: each epoch")]
    assert said == ["Stopped; what is finished is kept.", f"go on with  cikd {' '.join(map(str, words))}"]
    assert RunDir.open("runs/lm-001").status == "done"


def test_sigterm_is_named_as_the_reason(cikd, teacher, recipe, tmp_path):
    said = tmp_path / "said.txt"
    pid = fork(lambda: command(lm(teacher, recipe)), said)
    deadline = time.monotonic() + 120
    while epochs_of(Path("runs/lm-001")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    assert ended(pid) == EXIT_INTERRUPTED
    told = "".join(said.read_text().splitlines(keepends=True)[-2:])
    assert re.fullmatch(
        r"runs/lm-001 stopped on SIGTERM \(a time limit, a shutdown or kill\) after epoch \d+ of 4000, and is saved\.\n"
        r"continue it with  cikd lm --resume runs/lm-001\n",
        told,
    ), told
