"""Commands, flags and words that do not exist, many known from other programs, are answered with what to type."""

import re
import sys

import pytest
from claimed import RESULT, whole
from typer.testing import CliRunner

from cikd_cli.cli import elsewhere
from cikd_cli.cli.app import app
from cikd_cli.cli.flags import settable
from cikd_cli.cli.slurm import SlurmOptions
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.knob import flag_name
from cikd_cli.settings.stages import STAGES

ANSWERS = {
    "train --data photos": ("no command 'train'", "cikd run trains"),
    "fit": ("no command 'fit'", "cikd run"),
    "predict x.jpg": ("no command 'predict'", "not there yet"),
    "export lm-001": ("no command 'export'", "not there yet"),
    "test": ("no command 'test'", "cikd eval RUN"),
    "validate lm-001": ("no command 'validate'", "cikd eval RUN"),
    "resume": ("no command 'resume'", "cikd ali --resume RUN"),
    "ls": ("no command 'ls'", "cikd runs"),
    "version": ("no command 'version'", "cikd --version"),
    "help": ("no command 'help'", "cikd --help"),
    "evl runs/lm-001": ("no command 'evl'", "did you mean cikd eval runs/lm-001?"),
    "photos": ("no command 'photos'", "did you mean cikd run --data photos?"),
    "runs/lm-001": ("no command 'runs/lm-001'", "did you mean cikd eval runs/lm-001?"),
    "xyzzy": ("no command 'xyzzy'", "run, finetune-teacher"),
    "--data photos": ("cikd has no flag --data", "cikd run --data photos"),
    "--gpus 2 ali": ("cikd has no flag --gpus", "cikd ali --gpus 2"),
    "slurm eval": ("cikd slurm has no command 'eval'", "run, finetune-teacher, ali, lm"),
    "config al": ("cikd config has no command 'al'", "did you mean cikd config ali?"),
    # ---- flags from elsewhere ----
    "ali --class-weights 1,2": ("cikd ali has no flag --class-weights", "balanced accuracy"),
    "ali --lr0 0.01": ("no flag --lr0", "hint: --lr 0.01"),
    "ali --learning-rate=0.01": ("no flag --learning-rate", "hint: --lr 0.01"),
    "ali -lr 0.1": ("no flag -lr", "hint: --lr 0.1"),
    "ali -b 8": ("no flag -b", "hint: --batch-size 8"),
    "ali --bs 8": ("no flag --bs", "hint: --batch-size 8"),
    "ali --batch_size 8": ("no flag --batch_size", "hint: --batch-size 8"),
    "ali --imgsz 96": ("no flag --imgsz", "hint: --image-size 96"),
    "ali --device cpu": ("no flag --device", "hint: --gpus cpu"),
    "ali --device cuda:0": ("no flag --device", "hint: --gpus 1"),
    "ali --cpu": ("no flag --cpu", "hint: --gpus cpu"),
    "ali --ngpus 2": ("no flag --ngpus", "hint: --gpus 2"),
    "slurm ali --ngpus 2": ("cikd slurm ali has no flag --ngpus", "hint: --gpus-per-node 2"),
    "ali --fp16": ("no flag --fp16", "hint: --precision fp16"),
    "ali --amp": ("no flag --amp", "hint: --precision bf16"),
    "ali --wd 0.1": ("no flag --wd", "hint: --set weight_decay=0.1"),
    "ali --weight-decay 0.1": ("no flag --weight-decay", "hint: --set weight_decay=0.1"),
    "ali --patience 3": ("no flag --patience", "there is no such knob"),
    "ali --project out": ("no flag --project", "hint: --runs-dir out"),
    "ali --num-workers 4": ("no flag --num-workers", "hint: --workers 4"),
    "ali --model vit_pico": ("no flag --model", "--student vit_pico or --teacher vit_pico"),
    "finetune-teacher --pretrained x.pth": ("no flag --pretrained", "hint: --teacher x.pth"),
    "eval --weights lm-001": ("cikd eval has no flag --weights", "hint: cikd eval lm-001"),
    "eval lm-001 --epochs 3": ("cikd eval has no flag --epochs", "--epochs is for cikd run, cikd finetune-teacher"),
    "ali --alpha 4": ("cikd ali has no flag --alpha", "--alpha is for cikd lm"),
    "lm --no-distil": ("no flag --no-distil", "did you mean --no-distill?"),
    "ali --epohs 3": ("no flag --epohs", "did you mean --epochs 3?"),
    "ali --zzz": ("no flag --zzz", "cikd ali --help-all"),
    # ---- what one stage has and cikd run has not ----
    "run --lr 1e-3": ("cikd run has no flag --lr", "--set lm.lr=1e-3 for one stage, --set lr=1e-3 for every stage"),
    "run --warmup 3": ("cikd run has no flag --warmup", "--set warmup=3 for every stage"),
    "run --alpha 4": ("cikd run has no flag --alpha", "hint: --set lm.alpha=4"),
    "run --no-distill": ("cikd run has no flag --no-distill", "hint: --set lm.distill=false"),
    "run --name x": ("cikd run has no flag --name", "cikd ali --name NAME"),
    "run --resume lm-001": ("cikd run has no flag --resume", "it goes on with what is missing"),
    "run --from lm-001": ("cikd run has no flag --from", "cikd lm --from RUN"),
    "run --wd 0.1": ("cikd run has no flag --wd", "--set weight_decay=0.1 for every stage"),
    # ---- words without a flag ----
    "run photos": ("'photos' belongs to no flag", "hint: cikd run --data photos"),
    "run digits": ("'digits' belongs to no flag", "hint: cikd run --data digits"),
    "ali photos": ("'photos' belongs to no flag", "hint: cikd ali --data photos"),
    "ali teacher-001": ("belongs to no flag", "hint: cikd ali --teacher runs/teacher-001"),
    "lm ali-001": ("belongs to no flag", "hint: cikd lm --from runs/ali-001"),
    "lm open": ("belongs to no flag", "hint: cikd lm --resume runs/open"),
    "run lm-001": ("belongs to no flag", "cikd eval runs/lm-001"),
    "ali vit_pico": ("belongs to no flag", "hint: cikd ali --student vit_pico"),
    "ali epochs 10": ("'epochs' belongs to no flag", "did you mean --epochs 10?"),
    "ali lr0=0.1": ("lr0=0.1 is not a flag", "did you mean --lr 0.1?"),
    "run ali": ("'ali' belongs to no flag", "one command at a time: cikd ali"),
    "bench cifar100": ("belongs to no flag", "hint: cikd bench --recipe cifar100"),
    "finetune-teacher deit_tiny_patch16_224": ("belongs to no flag", "--teacher deit_tiny_patch16_224"),
    "eval lm-001 ali-001": ("'ali-001' belongs to no flag", "cikd eval lm-001; cikd eval ali-001"),
    "eval lm-001 photos": ("'photos' belongs to no flag", "hint: cikd eval lm-001 --data photos"),
    "runs photos": ("'photos' belongs to no flag", "hint: cikd runs --runs-dir photos"),
    "runs lm-001": ("'lm-001' belongs to no flag", "cikd eval runs/lm-001"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a", "photos/b", "My Photos/a"):
        (tmp_path / name).mkdir(parents=True)
    for stage, name in (("finetune-teacher", "teacher-001"), ("ali", "ali-001"), ("lm", "lm-001"), ("lm", "open")):
        run = RunDir.create(tmp_path / "runs", stage, prefix="", name=name, record=whole(), config={})
        if name != "open":
            run.finish(RESULT)
    for stage in STAGES.values():
        monkeypatch.setitem(sys.modules, stage.module, None)  # importing it would fail


def answer(*words):
    outcome = CliRunner().invoke(app, words, env={"COLUMNS": "200", "TERM": "dumb"})
    assert outcome.exit_code == 2, outcome.output
    assert outcome.stdout == ""
    return outcome.stderr.splitlines()


@pytest.mark.parametrize("line", ANSWERS)
def test_what_does_not_exist_is_answered_with_what_to_type(place, line):
    error, hint = answer(*line.split())
    assert ANSWERS[line][0] in error
    assert ANSWERS[line][1] in hint


def test_a_name_with_a_space_that_lost_its_quotes_is_shown_with_them(place, monkeypatch):
    words = ["run", "--data", "My", "Photos"]
    monkeypatch.setattr(sys, "argv", ["cikd", *words])
    assert "'My Photos'" in answer(*words)[1]


# ---- the table ----

SAYINGS = [*elsewhere.COMMANDS.values(), *(here.says for here in elsewhere.FLAGS.values()), *elsewhere.WITHOUT.values()]
COMMANDS = {*STAGES, "runs", "config", "slurm"}


def flags_of(command):
    return {flag_name(name, info) for name, (_, info) in settable(STAGES[command]).items()} | {"--help"}


@pytest.mark.parametrize("says", [says for says in SAYINGS if says])
def test_every_command_and_flag_that_the_table_names_is_there(says):
    every = {flag for command in STAGES for flag in flags_of(command)} | {"--version"}
    for part in re.split(r"[;,:]|\bor\b|\band\b", says):
        command = re.search(r"\bcikd ([a-z][a-z-]*)", part)
        flags = re.findall(r"--[a-z][a-z-]*", part)
        assert command is None or command[1] in COMMANDS, part
        known = flags_of(command[1]) if command and command[1] in STAGES else every
        assert set(flags) <= known, part


def test_every_field_that_the_table_names_is_there_and_no_word_is_explained_twice():
    fields = {name for stage in STAGES.values() for name in settable(stage)} | {*SlurmOptions.model_fields, "runs"}
    assert {name for here in elsewhere.FLAGS.values() for name in here.fields} <= fields
    assert {name for _, name in elsewhere.WITHOUT} <= fields
    for table in (elsewhere.COMMANDS, elsewhere.FLAGS):
        words = [word for group in table for word in group]
        assert sorted(words) == sorted(set(words))


def test_no_command_of_the_table_is_one_of_ours():
    assert not COMMANDS & {word for words in elsewhere.COMMANDS for word in words}
