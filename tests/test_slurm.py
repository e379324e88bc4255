"""`cikd slurm`: the script is one that bash reads as it was meant, and whose command is the one that was typed."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cikd_cli.cli import slurm

WORDS = ("--set", "betas=0.9,0.95", "--lr", "1e-3", "--name", "first-try")
HOSTILE = 'it\'s a "folder" $(touch gone) `touch gone`; touch gone'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, and in it one of images whose name a shell would act on."""
    monkeypatch.chdir(tmp_path)
    Path(HOSTILE).mkdir()
    return tmp_path


def job(cikd, *words):
    Path("job.sbatch").write_text(cikd("slurm", *words).output)
    return Path("job.sbatch").read_text()


def started(folder, script):
    """What the script would run: the arguments that `srun` gets, and those of the program that it starts."""
    (folder / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$PWD" "$@" > "$OUT"\n')
    (folder / "scontrol").write_text("#!/bin/bash\necho node-7\necho node-8\n")
    for name in ("srun", "scontrol"):
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "OUT": str(folder / "out"), "SLURM_JOB_ID": "41",
                   "SLURM_JOB_NODELIST": "node-[7-8]"}  # fmt: skip
    subprocess.run(["bash", "job.sbatch"], check=True, env=environment, cwd=folder)
    assert not (folder / "gone").exists()
    return (folder / "out").read_text().splitlines()


@pytest.mark.parametrize("nodes", ["1", "2"])
def test_the_script_starts_the_very_command_whatever_is_in_its_words(cikd, folder, nodes):
    job(cikd, "ali", "--nodes", nodes, "--gpus-per-node", "4", "--data", HOSTILE, *WORDS)
    where, *words = started(folder, "job.sbatch")
    assert where == str(folder)
    command = words[words.index("cikd_cli") + 1 :]
    gpus = ["--gpus", "4"] if nodes == "1" else []  # else torchrun says so
    assert command[0] == "ali"
    assert sorted(command[1:]) == sorted(["--data", HOSTILE, *WORDS, "--continue", *gpus])
    assert sys.executable in words
    if nodes == "2":
        launcher = words[words.index("torch.distributed.run") : words.index("cikd_cli")]
        assert launcher[launcher.index("--rdzv-endpoint") + 1] == "node-7:20041"
        assert launcher[launcher.index("--nnodes") + 1] == "2"
        assert launcher[launcher.index("--nproc-per-node") + 1] == "4"


def test_the_header_asks_for_what_was_typed_and_saves_before_the_end(cikd, folder):
    script = job(
        cikd, "lm", "--data", HOSTILE, *WORDS, "--nodes", "2", "--gpus-per-node", "8", "--cpus-per-gpu", "6", "--time",
        "1-12:00:00", "--grace", "300", "--partition", "gpu", "--account", "vision", "--mem", "64G",
    )  # fmt: skip
    asked = {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {
        "--nodes=2", "--gpus-per-node=8", "--cpus-per-task=48", "--time=1-12:00:00", "--signal=USR1@300", "--requeue",
        "--partition=gpu", "--account=vision", "--mem=64G", "--job-name=first-try", "--dependency=singleton",
    } <= asked  # fmt: skip
    assert not any(line.startswith(("--qos", "--constraint")) for line in asked)


@pytest.mark.parametrize("words", [("ali", *WORDS), ("ali", "--nodes", "2", *WORDS), ("run",)])
def test_bash_and_shellcheck_have_nothing_to_say(cikd, folder, words):
    job(cikd, *words, "--data", HOSTILE)
    subprocess.run(["bash", "-n", "job.sbatch"], check=True)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck:
        done = subprocess.run([shellcheck, "job.sbatch"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ali",), "--name NAME"),
        (("ali", "--name", "x", "--lr", "-1"), "lr must be greater than 0"),
        (("ali", "--name", "x", "--lerning", "1"), "--lerning"),
        (("ali", "--name", "../x"), "cannot be the name of a run"),
        (("ali", "--name", "x", "--gpus", "4"), "--gpus-per-node"),
        (("ali", "--name", "x", "--lob", "7,8"), "one run"),
        (("ali", "--name", "x", "--recipe", "cifar1000"), "cifar100"),
        (("ali", "--name", "x", "--nodes", "0"), "nodes must be"),
        (("ali", "--name", "x", "--partition", "gpu\n#SBATCH --mem=1"), "partition must"),
        (("lm", "--resume", "runs/x"), "goes on with it"),
        (("run", "--nodes", "2"), "one machine"),
        (("ali", "--name", "x", "--time", "2"), "--grace 60, or a longer --time"),
        (("ali", "--name", "x", "--grace", "65536"), "grace must be less than or equal to 65535"),
        (("ali", "--name", "x", "--time", "1" * 5000), "time must be a time such as"),
        (("ali", "--name", "x", "--views", "device", "--workers", "2"), "--workers 2 would have no work"),
    ],
)
def test_what_a_job_could_not_do_is_refused_before_it_is_queued(cikd, folder, words, said):
    assert said in cikd("slurm", *words, code=2).output


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("2", 120), ("1:30", 120), ("1:00:05", 3660), ("0-2", 7200), ("0-2:3", 7380), ("0-2:3:4", 7440)],
)
def test_a_limit_is_in_whole_minutes_rounded_up(cikd, folder, time, seconds):
    words = ("slurm", "ali", "--name", "x", "--time", time, "--grace")
    cikd(*words, str(seconds - 1))
    assert f"{seconds:,} seconds" in cikd(*words, str(seconds), code=2).output


def test_a_limit_of_days_is_as_long_as_it_says():
    assert slurm._seconds("1-2:3:4") == 93840


def test_without_a_limit_no_grace_is_too_long(cikd, folder):
    assert "USR1@300" in job(cikd, "ali", "--name", "x", "--time", "0", "--grace", "300")


def test_the_words_of_a_job_are_those_that_shlex_reads_in_its_comment(cikd, folder):
    made = next(line for line in job(cikd, "ali", "--data", HOSTILE, *WORDS).splitlines() if "Made by" in line)
    assert HOSTILE in shlex.split(made.removeprefix("# Made by: "))
