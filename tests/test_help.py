"""What `--help` shows, and of what."""

import os
import re
import subprocess
import sys

import pytest
from typed import cikd

from cikd_cli import __version__
from cikd_cli.cli.flags import first_flags, knobs_of, settable
from cikd_cli.settings.knob import facts_of, flag_name
from cikd_cli.settings.methods import CurriculumConfig
from cikd_cli.settings.stages import STAGES


def test_alone_it_shows_its_commands():
    shown = cikd().output
    assert all(command in shown for command in [*STAGES, "runs", "config"])


def test_version_is_one_line():
    assert cikd("--version").output == f"cikd {__version__}\n"


def test_help_has_the_panels_the_examples_and_the_real_defaults():
    shown = cikd("ali", "--help-all").output
    for title in ("Data", "Teacher and student", "Optimisation", "Hardware", "Run"):
        assert f" {title} " in shown
    assert "  cikd ali --data cifar100 --lob 10 --gpus 4" in shown
    assert "Passes over the training images. [default: 300]" in shown
    assert "[default: 0]" in next(line for line in shown.splitlines() if "--seed" in line)
    assert "INT|auto" in shown


@pytest.mark.parametrize("command", STAGES)
def test_every_knob_with_a_panel_is_a_flag_in_help(command):
    shown = cikd(command, "--help-all").output
    fields = STAGES[command].config.model_fields
    missing = [flag_name(name, info) for name, info in fields.items() if facts_of(info).panel and name]
    assert [flag for flag in missing if f"{flag} " not in shown] == []


@pytest.mark.parametrize("command", STAGES)
def test_help_shows_about_ten_flags_first_and_names_the_way_to_all(command):
    stage = STAGES[command]
    marked = {name for name, (_, info) in (knobs_of(stage) | settable(stage)).items() if facts_of(info).first}
    first = first_flags(stage)
    fields = {name: info for name, (_, info) in settable(stage).items()}
    assert 8 <= len(first) <= 12
    assert first == marked or len(first) == len(knobs_of(stage) | settable(stage))
    shown = cikd(command, "--help").output
    flags = {flag_name(name, fields[name]) for name in first}
    assert {word for word in re.findall(r"│ (--[a-z-]+)", shown) if word not in ("--help-all",)} == flags
    assert (f"cikd {command} --help-all" in shown) == (first == marked)


def test_help_of_a_job_shows_the_flags_of_slurm_first():
    shown = cikd("slurm", "ali", "--help").output
    assert "--gpus-per-node" in shown
    assert "--name" in shown
    assert "--lob" not in shown
    assert "cikd slurm ali --name NAME" in shown
    assert "--lob" in cikd("slurm", "ali", "--help-all").output


@pytest.mark.parametrize(
    "words", [(), ("runs",), ("slurm",), ("config",), *((name,) for name in STAGES), ("config", "ali"), ("slurm", "lm")]
)
@pytest.mark.parametrize("wanted", ["--help", "--help-all"])
def test_every_help_is_in_boxes_of_the_width_of_the_terminal(words, wanted):
    lines = cikd(*words, wanted, COLUMNS="80").output.splitlines()
    assert max(map(len, lines)) <= 80
    assert {len(line) for line in lines if line[:1] in "╭│╰" and line} == {80}
    assert "Options" in next(line for line in reversed(lines) if line.startswith("╭"))
    assert "<bool>" not in "".join(lines)
    assert "none:" not in "".join(lines)


def test_help_can_be_written_where_there_are_no_boxes():
    script = "import sys; sys.argv = ['cikd', 'ali', '--help']; from cikd_cli.__main__ import main; main()"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    assert "+- Data" in done.stdout


def test_the_curriculum_has_the_flags_of_its_stages():
    flags = {flag_name(name, info) for name, (_, info) in knobs_of(STAGES["run"]).items()}
    assert flags == {
        *("--data", "--data-root", "--download", "--fraction", "--val", "--image-size", "--skip-unreadable"),
        *("--teacher", "--teacher-arch", "--student", "--lob", "--epochs", "--batch-size", "--precision", "--seed"),
        "--baseline",
    }
    assert STAGES["run"].config is CurriculumConfig


def test_a_mistyped_command_is_answered_with_the_nearest():
    result = cikd("evl")
    assert result.exit_code == 2
    assert "eval" in result.output
