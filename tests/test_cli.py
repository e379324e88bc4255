"""The command line: what reaches a stage, what is refused and how, and how trouble in a stage is told."""

import errno
import json
import signal
import sys
import types
from contextlib import suppress

import pytest
from claimed import RESULT, whole
from typed import cikd

from cikd_cli.cli.exits import loading
from cikd_cli.errors import CikdError
from cikd_cli.runs.directory import RunDir


@pytest.fixture
def stage(monkeypatch):
    """Put a function in the place of the module of cikd bench and ali; what it is asked is kept in `seen`."""
    seen = []

    def put(act=lambda _: {}):
        for name in ("cikd_cli.bench.command", "cikd_cli.stages.train"):
            module = types.ModuleType(name)
            module.run = lambda request: (seen.append(request), act(request))[1]
            monkeypatch.setitem(sys.modules, name, module)
        return seen

    return put


def failing(error):
    def act(_):
        raise error

    return act


# ---- what reaches the stage ----


@pytest.fixture
def digits_teacher(tmp_path, monkeypatch):
    """A finished teacher of digits in the runs folder."""
    monkeypatch.setenv("CIKD_RUNS_DIR", str(tmp_path))
    data = {"name": "digits", "classes": 10}
    config = {"data": "digits", "image_size": 32}
    RunDir.create(
        tmp_path, "finetune-teacher", prefix="teacher", name=None, record=whole(data=data), config=config
    ).finish(RESULT)


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
