"""Processes that another launcher has started: 1, 2 and 4 of them, on one machine or two, for one run."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from crash import differences, ended, fork, wait_for
from peers import free_port, share, start, words_for
from test_distributed import epochs_of
from torch.distributed import run as torchrun

import cikd_cli
from cikd_cli.engine import fit
from cikd_cli.engine.checkpoint import read_about
from cikd_cli.engine.step import Training
from cikd_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED
from cikd_cli.models.weights import load_model
from cikd_cli.runs.directory import RunDir


def same(first, second):
    """Both runs have the same losses and weights, but for the rounding of float32."""
    for one, two in zip(first.metrics(), second.metrics(), strict=True):
        assert two["epoch"] == one["epoch"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    weights = load_model(second.weights)[0].state_dict()
    for name, tensor in load_model(first.weights)[0].state_dict().items():
        if not name.endswith("qkv.bias"):  # a key's bias has no gradient but rounding, which Adam blows up
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=5e-5, msg=name)


def stop_in(epoch):
    """In a child: SIGTERM to itself at the end of an epoch."""

    def before(rank):
        close = Training.close_epoch

        def closed(training, run, clock):
            close(training, run, clock)
            if rank == 1 and training.epoch >= epoch:
                os.kill(os.getpid(), signal.SIGTERM)

        Training.close_epoch = closed

    return before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_process_saves_the_step_under_way(cikd, teacher, recipe, tmp_path, number):
    words = (*words_for("ali", teacher, recipe, "mine", epochs=1), "--batch-size", 4)  # 7 steps

    def signal_in_step_2(rank):
        step = fit.train_step

        def stepped(trainings, batch, world, **where):
            if where["step"] > 3 and number == signal.SIGUSR1:
                os.kill(os.getpid(), signal.SIGKILL)  # what is saved after SIGUSR1 is what is found then
            if rank == 1 and where["step"] == 2:
                os.kill(os.getpid(), number)
            return step(trainings, batch, world, **where)

        fit.train_step = stepped

    _, said = share(words, 2, tmp_path, before=signal_in_step_2)
    last = Path("runs/mine/checkpoints/last.safetensors")
    assert last.exists(), said
    assert read_about(last.read_bytes()).progress.step == 3


@pytest.mark.parametrize("stage", ["ali", "lm"])
def test_a_run_of_four_processes_goes_on_with_two_or_one_and_ends_the_same(cikd, teacher, recipe, tmp_path, stage):
    straight, broken = (words_for(stage, teacher, recipe, name) for name in ("straight", "broken"))
    cikd(*straight)
    codes, said = share(broken, 4, tmp_path, before=stop_in(2))
    assert codes == [EXIT_INTERRUPTED] * 4, said
    assert "continue it with" in said[0]
    assert said[1:] == ["", "", ""]
    assert RunDir.open("runs/broken", finished=False).record.world_size == 4
    codes, said = share((*broken, "--continue"), 2, tmp_path, before=stop_in(3))
    assert codes == [EXIT_INTERRUPTED] * 2, said
    cikd(*broken, "--continue")
    same(RunDir.open("runs/straight"), RunDir.open("runs/broken"))
    files = {str(path.relative_to("runs/broken")) for path in Path("runs/broken").rglob("*")}
    assert "ranks" not in files


def test_an_error_of_one_process_ends_all_with_one_sentence_and_the_launcher_does_not_try_it_again(
    cikd, teacher, recipe, tmp_path
):
    words = (*words_for("ali", teacher, recipe, "lost"), "--continue")

    def break_second(rank):
        def broken(*_, **__):
            raise KeyError("a bug")

        if rank == 1:
            fit.train_step = broken

    codes, said = share(words, 2, tmp_path, before=break_second)
    assert codes == [EXIT_FAILED] * 2, said
    assert "error: Process 1 failed: KeyError: 'a bug'" in said[1]
    log = Path("runs/lost/ranks/rank-1.log").resolve()
    assert f"The log of process 1: {log}" in said[1]
    assert "KeyError" in log.read_text()
    assert "error:" not in said[0]
    assert RunDir.open("runs/lost", finished=False).record.message.startswith("Process 1 failed: KeyError")
    codes, said = share(words, 2, tmp_path, TORCHELASTIC_RESTART_COUNT=1, TORCHELASTIC_MAX_RESTARTS=3)
    assert codes[0] == EXIT_FAILED
    assert "KeyError" in said[0]
    assert RunDir.open("runs/lost", finished=False).metrics() == []
    assert share(words, 2, tmp_path)[0] == [0, 0]  # a person who starts it again has mended it
    assert not Path("runs/lost/ranks").exists()


def test_wrong_input_is_told_once(cikd, teacher, recipe, tmp_path):
    words = words_for("ali", teacher, recipe, "mine")
    for wrong, said_by_first in (
        ((*words, "--lob", "99"), "The learning objective block 99 is outside"),
        ((*words, "--processes", "2"), "torchrun has started 2 processes"),
        (("eval", teacher), "is not shared out among processes"),
        ((*words, "--lerning", "1"), "--lerning"),
    ):
        codes, said = share(wrong, 2, tmp_path)
        assert codes[0] == 2
        assert codes[1] != 0
        assert said_by_first in said[0]
        assert said[1] == ""
    codes, said = share(words, 1, tmp_path, TORCHELASTIC_MAX_RESTARTS=3)
    assert "--name NAME --continue" in said[0]
    assert not Path("runs/mine").exists()


def test_more_processes_than_gpus_are_told_of_by_the_first_that_has_none(cikd, teacher, recipe, tmp_path):
    def have_one_gpu(_):
        torch.cuda.device_count = lambda: 1

    pids = start(("ali", "--teacher", teacher, "--recipe", recipe), 3, tmp_path, before=have_one_gpu)
    assert [ended(pid) for pid in pids[1:]] == [2, 2]
    os.kill(pids[0], signal.SIGKILL)  # as torchrun would
    ended(pids[0])
    said = [(tmp_path / f"said-{rank}.txt").read_text() for rank in range(3)]
    assert "torchrun has started 3 processes on " in said[1]
    assert "which has 1 GPU.\n" in said[1]
    assert "hint: torchrun --nproc-per-node 1" in said[1]
    assert [said[0], said[2]] == ["", ""]


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", "abc"), ("RANK", "2"), ("WORLD_SIZE", "0"), ("LOCAL_RANK", "-1"), ("LOCAL_WORLD_SIZE", "0"),
     ("MASTER_PORT", "port"), ("TORCHELASTIC_RESTART_COUNT", "x"), ("TORCHELASTIC_MAX_RESTARTS", "")],
)  # fmt: skip
def test_what_no_launcher_sets_is_told(cikd, monkeypatch, name, value):
    launched = {"TORCHELASTIC_RUN_ID": "1", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for key, word in (launched | {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"} | {name: value}).items():
        monkeypatch.setenv(key, word)
    assert f"{name} is {value!r} in the environment" in cikd("ali", "--data", "photos", code=2).output


def test_a_network_through_which_processes_cannot_meet_is_told_with_what_helps(cikd, teacher, recipe, tmp_path):
    words = words_for("ali", teacher, recipe, "mine")
    codes, said = share(words, 2, tmp_path, GLOO_SOCKET_IFNAME="nowhere0")
    assert codes == [EXIT_FAILED] * 2, said
    assert sum("cannot reach the others through the network" in text for text in said) == 1, said
    assert sum("GLOO_SOCKET_IFNAME=eth0" in text for text in said) == 1
    assert not Path("runs/mine").exists()


def test_a_dry_run_of_several_processes_writes_nothing(cikd, teacher, recipe, tmp_path):
    codes, said = share((*words_for("ali", teacher, recipe, "mine"), "--dry-run"), 2, tmp_path)
    assert codes == [0, 0], said
    assert not Path("runs/mine").exists()


def test_a_start_after_a_kill_goes_on_from_the_last_checkpoint_and_ends_as_if_nothing_had_been(
    cikd, teacher, recipe, tmp_path
):
    straight, broken = (words_for("ali", teacher, recipe, name, epochs=12) for name in ("straight", "broken"))
    assert share((*straight, "--save-every", "1e"), 2, tmp_path)[0] == [0, 0]
    broken = (*broken, "--continue", "--save-every", "1e")
    pids = start(broken, 2, tmp_path, before=slow, TORCHELASTIC_MAX_RESTARTS=3)
    wait_for(lambda: epochs_of(Path("runs/broken")) >= 2, pids[0])
    os.kill(pids[1], signal.SIGKILL)
    assert [ended(pid) for pid in pids] == [EXIT_FAILED, -signal.SIGKILL]
    assert "one of them has ended without a word" in (tmp_path / "said-0.txt").read_text()
    assert RunDir.open("runs/broken", finished=False).status == "interrupted"
    again = share(broken, 2, tmp_path, TORCHELASTIC_MAX_RESTARTS=3, TORCHELASTIC_RESTART_COUNT=1)
    assert again[0] == [0, 0], again
    assert differences(Path("runs/straight"), Path("runs/broken")) == []


def slow(rank):
    """In a child: epochs that last long enough to be hit."""
    close = Training.close_epoch

    def closed(*given):
        time.sleep(0.1)
        close(*given)

    Training.close_epoch = closed


def test_two_agents_of_torchrun_that_meet_on_loopback_train_one_run(cikd, teacher, recipe, tmp_path):
    words = words_for("ali", teacher, recipe, "both")
    cikd(*words_for("ali", teacher, recipe, "straight"))
    agent = [
        "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "two",
        "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--redirects", "3", "--log-dir", str(tmp_path / "logs"),
        "-m", "cikd_cli", *map(str, words),
    ]  # fmt: skip

    def be_agent():
        os.environ["PYTHONPATH"] = str(Path(cikd_cli.__file__).parents[1])
        torchrun.main(agent)

    agents = [fork(be_agent, tmp_path / f"agent-{number}.txt") for number in range(2)]
    assert [ended(pid) for pid in agents] == [0, 0], (tmp_path / "agent-0.txt").read_text()
    same(RunDir.open("runs/straight"), RunDir.open("runs/both"))
    assert RunDir.open("runs/both").record.hardware.device == "2 × CPU on 2 machines"
    printed = [path.read_text() for path in (tmp_path / "logs").rglob("stdout.log")]
    assert sorted("2 × CPU on 2 machines" in text for text in printed) == [False, True]  # one of them speaks


def test_a_launcher_that_is_killed_leaves_processes_that_save_and_end(cikd, teacher, recipe, tmp_path):
    words, run = words_for("ali", teacher, recipe, "orphans", epochs=4000), Path("runs/orphans")
    launcher = fork(lambda: [ended(pid) for pid in start(words, 2, tmp_path)] and 0)
    wait_for(lambda: epochs_of(run) >= 2, launcher)
    os.kill(launcher, signal.SIGKILL)
    ended(launcher)
    deadline = time.monotonic() + 25
    while RunDir.open(run, finished=False).is_locked():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert RunDir.open(run, finished=False).record.status == "interrupted"
    assert (run / "checkpoints/last.safetensors").exists()
