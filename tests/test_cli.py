"""The command line: help, config, what is refused and how, and how trouble in a stage is told."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import types
from contextlib import suppress

import pytest
from typer.testing import CliRunner

from cikd_cli import __version__
from cikd_cli.cli.app import app
from cikd_cli.cli.exits import loading
from cikd_cli.cli.flags import first_flags, knobs_of, settable
from cikd_cli.errors import CikdError
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.configs import CurriculumConfig
from cikd_cli.settings.request import extra, flag_name, is_first
from cikd_cli.settings.stages import STAGES


def cikd(*words, **variables):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "TERM": "dumb", **variables})


@pytest.fixture
def stage(monkeypatch):
    """Put a function in the place of the module of cikd bench and ali; what it is asked is kept in `seen`."""
    seen = []

    def put(act=lambda _: {}):
        for name in ("cikd_cli.bench.command", "cikd_cli.training.ali"):
            module = types.ModuleType(name)
            module.run = lambda request: (seen.append(request), act(request))[1]
            monkeypatch.setitem(sys.modules, name, module)
        return seen

    return put


def failing(error):
    def act(_):
        raise error

    return act


# ---- help ----


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
    missing = [flag_name(name, info) for name, info in fields.items() if extra(info, "panel") and name]
    assert [flag for flag in missing if f"{flag} " not in shown] == []


@pytest.mark.parametrize("command", STAGES)
def test_help_shows_about_ten_flags_first_and_names_the_way_to_all(command):
    stage = STAGES[command]
    marked = {name for name, (_, info) in (knobs_of(stage) | settable(stage)).items() if is_first(info)}
    first = first_flags(stage)
    fields = {name: info for name, (_, info) in settable(stage).items()}
    assert 8 <= len(first) <= 12
    assert first == marked or len(first) == len(knobs_of(stage)) + len(stage.options)
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


# ---- what reaches the stage ----


@pytest.fixture
def digits_teacher(tmp_path, monkeypatch):
    """A finished teacher of digits in the runs folder."""
    monkeypatch.setenv("CIKD_RUNS_DIR", str(tmp_path))
    data = {"name": "digits", "classes": 10}
    config = {"data": "digits", "image_size": 32}
    RunDir.create(
        tmp_path, "finetune-teacher", prefix="teacher", name=None, record={"data": data}, config=config
    ).finish({})


def test_only_what_was_typed_reaches_the_stage_in_its_own_type(stage, digits_teacher):
    seen = stage()
    words = ["--data", "digits", "--lob", "4", "--no-qk", "--lr", "1e-3", "--pairs", "1:1,4:6", "--set", "flip=0"]
    result = cikd("ali", *words, "--set", "ema=0.5", "--gpus", "0,2")
    assert result.exit_code == 0, result.output
    request = seen[0]
    assert request.flags == {"data": "digits", "lob": 4, "qk": False, "lr": 1e-3, "pairs": ((1, 1), (4, 6))}
    assert request.options.model_fields_set == {"set", "gpus", "runs_dir"}
    assert request.options.set == ("flip=0", "ema=0.5")


def test_the_runs_folder_can_come_from_the_environment(stage, digits_teacher, tmp_path):
    seen = stage()
    cikd("ali", "--data", "digits", CIKD_RUNS_DIR=str(tmp_path))
    assert seen[0].options.runs_dir == str(tmp_path)


def test_a_stage_without_arguments_runs_and_does_not_show_help(stage):
    seen = stage()
    assert cikd("bench").exit_code == 0
    assert len(seen) == 1


def test_with_json_standard_output_is_one_object(stage):
    stage(lambda _: {"run": "runs/ali-001", "loss": float("nan")})
    assert json.loads(cikd("bench", "--json").stdout) == {"run": "runs/ali-001", "loss": None}
    assert cikd("bench").stdout == ""


# ---- refusals, before any stage is loaded ----


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["ali", "--data", "cifar100", "epochs=10"], "epochs=10 is not a flag", ": --epochs 10"),
        (["ali", "batch-size=8"], "batch-size=8 is not a flag", ": --batch-size 8"),
        (["ali", "batch_size=8"], "batch_size=8 is not a flag", ": --batch-size 8"),
        (["ali", "flip=0"], "flip=0 is not a flag", ": --set flip=0"),
        (["ali", "epoch=10"], "epoch=10 is not a flag", "did you mean --epochs 10?"),
        (["ali", "keep_evry=5"], "keep_evry=5 is not a flag", "did you mean --set keep_every=5?"),
        (["ali", "now"], "'now' belongs to no flag", "cikd ali --help"),
        (["ali", "views=device"], "views=device is not a flag", ": --views device"),
        (["ali", "quiet=true"], "quiet=true is not a flag", ": --quiet"),
        (["ali", "quiet=no"], "quiet=no is not a flag", ": leave --quiet out"),
        (["ali", "qk=1"], "qk=1 is not a flag", ": --qk"),
        (["ali", "qk=False"], "qk=False is not a flag", ": --no-qk"),
        (["lm", "from=runs/ali"], "from=runs/ali is not a flag", ": --from runs/ali"),
        (["run", "epochs=3"], "epochs=3 is not a flag", ": --epochs 3"),
        (["run", "lr=3"], "lr=3 is not a flag", "--set lr=3 for every stage"),
        (["slurm", "ali", "--name", "x", "time=1"], "time=1 is not a flag", ": --time 1"),
        (["slurm", "ali", "--name", "x", "zz=1"], "zz=1 is not a flag", "cikd slurm ali --help shows the flags"),
        (["mad", "runs/x", "images=10"], "images=10 is not a flag", "--images 10"),
        (["eval"], "cikd eval needs a run", "cikd eval runs/lm-001"),
        (["ali", "--epochs", "ten"], "epochs must be a whole number, not 'ten'", "cikd config ali"),
        (["ali", "--workers", "-1"], "workers must be greater than or equal to 0, not -1", "cikd"),
        (["run", "--data", "flower"], "no data set and no folder named 'flower'", "did you mean flowers?"),
        (["ali", "--resume", "runs/ali-001", "--lr", "1"], "so --lr cannot be given", "cikd ali --resume runs/ali-001"),
    ],
)
def test_wrong_input_is_a_sentence_a_hint_and_exit_code_2(words, message, hint, monkeypatch):
    for name in ("ali", "mad", "evaluate", "curriculum"):
        monkeypatch.setitem(sys.modules, f"cikd_cli.stages.{name}", None)  # importing it would fail
    result = cikd(*words)
    assert result.exit_code == 2
    error, second = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert second.startswith("hint: ")
    assert hint in second
    assert result.stdout == ""


# ---- trouble in a stage ----


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "code", "message", "hint"),
    [
        (CikdError("no run", hint="cikd runs"), 2, "error: no run", "hint: cikd runs"),
        (CikdError("stopped", hint="go on with  x", exit_code=130), 130, "stopped.", "go on with  x"),
        (KeyboardInterrupt(), 130, "Stopped before anything was made.", None),
        (MemoryError(), 1, "error: Out of memory", "--batch-size"),
        (OutOfMemoryError("CUDA out of memory.\nmore"), 1, "error: Out of memory: CUDA out of memory.", "--accumulate"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 1, "error: No space left for runs/x", "free"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "error: No space left", "free some"),
    ],
)
def test_trouble_in_a_stage_is_a_sentence_with_its_exit_code(stage, error, code, message, hint):
    stage(failing(error))
    result = cikd("bench")
    assert result.exit_code == code
    lines = result.stderr.splitlines()
    assert lines[0].startswith(message)
    assert len(lines) == (2 if hint else 1)
    assert hint is None or hint in lines[1]


def test_what_a_library_makes_of_a_ctrl_c_while_it_is_loaded_is_still_a_ctrl_c(stage):
    broken = ImportError("cannot load the C extensions")
    broken.__context__ = KeyboardInterrupt()
    stage(failing(broken))
    result = cikd("bench")
    assert (result.exit_code, result.stderr) == (130, "Stopped before anything was made.\n")


def test_a_ctrl_c_that_a_library_swallows_while_it_is_loaded_still_ends_the_program():
    def load():
        with loading(), suppress(BaseException):  # as libraries do around what they can go without
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        load()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_our_own_bug_stays_a_traceback(stage):
    stage(failing(ValueError("ours")))
    assert isinstance(cikd("bench").exception, ValueError)


# ---- config and runs ----


def test_config_shows_every_value_and_its_source():
    shown = cikd("config", "ali", "--data", "flowers", "--epochs", "7").stdout.splitlines()
    cells = {line.split()[0]: re.split("  +", line)[1:] for line in shown}
    assert cells["epochs"] == ["7", "flag", "Passes over the training images."]
    assert cells["batch_size"] == ["64", "recipe flowers", "Images a step, over all processes."]
    assert cells["betas"] == ["0.9,0.95", "default", "AdamW betas."]
    assert cells["mean"][2].endswith("[default: the teacher's pretraining statistics]")


@pytest.mark.parametrize("command", ["ali", "run", "eval"])
def test_config_fits_a_terminal_of_80_columns(command):
    lines = cikd("config", command, COLUMNS="80").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    knobs = [line.split()[0] for line in lines[1:] if line[0] != " "]
    assert len(knobs) == len(set(knobs)) > 5


def test_config_run_shows_all_three_stages_as_json():
    config = json.loads(cikd("config", "run", "--set", "ali.epochs=5", "--json").stdout)["config"]
    assert config["ali.epochs"] == {"value": 5, "source": "--set"}
    assert {key.split(".")[0] for key in config} == {"finetune_teacher", "ali", "lm", "baseline"}


def test_config_shows_what_a_parent_hands_on_and_refuses_a_contradiction(tmp_path):
    config = {"data": "digits", "image_size": 64}
    run = RunDir.create(
        tmp_path, "ali", prefix="ali", name=None, record={"parents": [], "data": {"classes": 10}}, config=config
    )
    run.finish({})
    shown = cikd("config", "lm", "--from", str(run.path)).stdout
    assert f"from {run.path}" in next(line for line in shown.splitlines() if line.startswith("image_size"))
    refused = cikd("config", "lm", "--from", str(run.path), "--image-size", "32")
    assert refused.exit_code == 2
    assert "image_size 32 contradicts" in refused.stderr


def test_runs_shows_the_tree_and_a_run_nobody_holds_as_interrupted(tmp_path):
    run = RunDir.create(tmp_path, "ali", prefix="ali", name=None, record={"parents": []}, config={})
    shown = cikd("runs", "--runs-dir", str(tmp_path)).stdout
    assert str(run.path) in shown
    assert "interrupted" in shown
    listed = json.loads(cikd("runs", "--runs-dir", str(tmp_path), "--json").stdout)
    assert listed["runs"][0]["status"] == "interrupted"


def test_runs_says_so_where_there_are_none(tmp_path):
    assert "no runs in" in cikd("runs", "--runs-dir", str(tmp_path)).stdout


def test_runs_names_a_run_it_cannot_read_and_lists_the_others(tmp_path):
    whole = RunDir.create(tmp_path, "ali", prefix="ali", name=None, record={"parents": []}, config={})
    broken = RunDir.create(tmp_path, "ali", prefix="ali", name=None, record={"parents": []}, config={})
    (broken.path / "run.json").write_text("{")
    shown = cikd("runs", "--runs-dir", str(tmp_path))
    assert str(whole.path) in shown.stdout
    assert f"{broken.path} is left out" in shown.stderr


def test_config_shows_what_a_teacher_hands_on(tmp_path):
    config = {"data": "digits", "image_size": 64}
    run = RunDir.create(tmp_path, "finetune-teacher", prefix="teacher", name=None, record={}, config=config)
    run.finish({})
    shown = cikd("config", "ali", "--teacher", str(run.path)).stdout
    assert f"from {run.path}" in next(line for line in shown.splitlines() if line.startswith("image_size"))
