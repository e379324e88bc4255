"""A terminal or a reader that goes away: what becomes of the work."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from crash import command, ended, fork
from screen import Terminal, lm, shows_the_end
from test_distributed import FOUR_THOUSAND, epochs_of, launch_afresh

from cikd_cli.errors import EXIT_INTERRUPTED
from cikd_cli.runs.directory import RunDir


def test_a_terminal_that_is_closed_stops_the_training_which_is_saved(cikd, teacher, recipe):
    terminal = Terminal(lambda: command(lm(teacher, recipe)), 80)
    terminal.watch(shows_the_end)
    terminal.close()
    assert ended(terminal.pid) == EXIT_INTERRUPTED
    run = RunDir.open("runs/lm-001", finished=False)
    assert run.record.status == "interrupted"
    log = Path("runs/lm-001/log.txt").read_text().splitlines()
    assert "stopped on SIGHUP (its terminal or connection was closed) after epoch" in log[-2]
    assert log[-1] == "continue it with  cikd lm --resume runs/lm-001"
    epoch = re.search(r"after epoch (\d+) of", log[-2]).group(1)
    assert f"after epoch {epoch} of 4000" in cikd("lm", "--resume", "runs/lm-001", "--dry-run").output


def test_a_closed_terminal_stops_several_processes_which_save(cikd, teacher, recipe):
    words = ("ali", "--teacher", teacher, "--recipe", recipe, *FOUR_THOUSAND)
    terminal = Terminal(lambda: launch_afresh(words), 80)
    terminal.watch(lambda _: epochs_of(Path("runs/ali-001")) >= 2, within=180)
    terminal.close()
    assert ended(terminal.pid) == EXIT_INTERRUPTED
    assert "stopped on SIGHUP" in Path("runs/ali-001/log.txt").read_text()
    assert Path("runs/ali-001/checkpoints/last.safetensors").exists()


def test_under_nohup_a_training_outlives_its_terminal(cikd, teacher, recipe):
    words = ("lm", "--teacher", teacher, "--recipe", recipe, "--epochs", "60")

    def without_hangups():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return command(words)

    terminal = Terminal(without_hangups, 80)
    terminal.watch(lambda _: epochs_of(Path("runs/lm-001")) >= 2)
    terminal.close()
    assert ended(terminal.pid) == 0
    assert len(RunDir.open("runs/lm-001").metrics()) == 60
    assert "nobody reads the output any more (Input/output error)" in Path("runs/lm-001/log.txt").read_text()


@pytest.mark.parametrize("numbers", [(1,), (2,), (1, 2)], ids=["stdout", "stderr", "both"])
def test_a_reader_that_goes_away_costs_nothing(cikd, photos, recipe, tmp_path, numbers):
    ours, theirs = os.pipe()
    words = ("finetune-teacher", "--data", photos, "--recipe", recipe, "--epochs", "9", "--lr", "1e-4")
    words += ("--name", "piped", "--set", "teacher_depth=2")

    def act():
        os.close(ours)
        for number in (1, 2):
            os.dup2(
                theirs if number in numbers else os.open(tmp_path / f"{number}.txt", os.O_CREAT | os.O_RDWR), number
            )
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        os.close(theirs)
        sys.stdin.close()
        return command(words)

    pid = fork(act)
    os.close(theirs)
    if 1 in numbers:
        assert os.read(ours, 1)
    os.close(ours)
    assert ended(pid) == 0
    run = RunDir.open("runs/piped")
    assert len(run.metrics()) == 9
    assert ("nobody reads the output any more (Broken pipe)" in Path("runs/piped/log.txt").read_text()) == (
        1 in numbers
    )
    if numbers == (1,):
        said = (tmp_path / "2.txt").read_text().splitlines()
        assert [line for line in said if not line.startswith("warning: each epoch")] == []


def shell(line, folder, **settings):
    """What a light command does in a shell."""
    words = line.replace("cikd", f"{sys.executable} -m cikd_cli")
    return subprocess.run(["sh", "-c", words], cwd=folder, capture_output=True, text=True, **settings)


GONE = "(sleep 2; {command}; echo $? > code) | true"  # the reader has ended before a word is written


@pytest.mark.parametrize(
    "words", ["config ali", "runs", "slurm ali --data digits --name x", "--help", "config ali --json"]
)
def test_a_short_command_whose_reader_has_gone_leaves_no_traceback(tmp_path, words):
    done = shell(GONE.format(command=f"cikd {words}"), tmp_path)
    code = (tmp_path / "code").read_text().strip()
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if "--json" in words or "slurm" in words:  # what a script wanted, and did not get
        assert (code, done.stderr) == (
            "1",
            "error: The result could not be written to standard output: Broken pipe.\n",
        )
    elif words != "--help":  # Typer's own
        assert (code, done.stderr) == ("0", "")


@pytest.mark.parametrize("to", [">&-", "> /dev/full"])
def test_a_command_without_a_place_for_its_result_says_so(tmp_path, to):
    assert shell(f"cikd runs {to}", tmp_path).returncode == 0
    done = shell(f"cikd runs --json {to}", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: The result could not be written to standard output: ")
    assert done.stderr.count("\n") == 1
    told = shell(f"cikd runs {to}", tmp_path).stderr
    assert told == ("" if to == ">&-" else "warning: standard output lacks what follows: No space left on device\n")


def test_all_standard_streams_may_be_closed_from_the_start(tmp_path):
    assert shell("cikd runs <&- >&- 2>&-", tmp_path).returncode == 0
    assert shell("cikd runs --runs-dir '' <&- >&- 2>&-", tmp_path).returncode == 2
