"""Several processes: the same stream, the same result, and one sentence when something is wrong."""

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from crash import command, differences, ended, fork, wait_for
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from cikd_cli.data.decode import DecodedSplit
from cikd_cli.data.loader import TrainLoader
from cikd_cli.data.splits import Split
from cikd_cli.data.views import ViewLaw
from cikd_cli.engine.step import Training, train_step
from cikd_cli.errors import EXIT_INTERRUPTED, CikdError
from cikd_cli.methods.supervised import Supervised
from cikd_cli.models import create_student
from cikd_cli.models.spec import HALF
from cikd_cli.models.weights import load_model
from cikd_cli.processes.world import Hardware, World, choose_hardware
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.methods import FinetuneTeacherConfig


@pytest.mark.parametrize("stage", ["ali", "lm"])
def test_two_processes_equal_one(cikd, teacher, recipe, stage):
    words = (stage, "--teacher", teacher, "--recipe", recipe, "--epochs", "2", "--gpus", "cpu")
    cikd(*words, "--name", "one")
    cikd(*words, "--processes", "2", "--name", "two")
    one, _ = load_model(RunDir.open("runs/one").weights)
    two, _ = load_model(RunDir.open("runs/two").weights)
    for name, tensor in one.state_dict().items():
        if name.endswith("qkv.bias"):  # a key's bias has no gradient but rounding, which Adam blows up to full steps
            continue
        torch.testing.assert_close(two.state_dict()[name], tensor, rtol=1e-4, atol=2e-5, msg=name)
    first, second = RunDir.open("runs/one").metrics()[-1], RunDir.open("runs/two").metrics()[-1]
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
    assert {key: second[key] for key in second if "top" in key} == {key: first[key] for key in first if "top" in key}
    assert ("test_top1" in second) == (stage == "lm")
    assert RunDir.open("runs/two").record.world_size == 2
    assert not Path("runs/two/ranks").exists()


FOUR_THOUSAND = ("--epochs", "4000", "--set", "keep_every=0", "--gpus", "cpu", "--processes", "2")


def epochs_of(run):
    return (run / "metrics.jsonl").read_text().count("\n") if (run / "metrics.jsonl").exists() else 0


def in_the_middle(run, act):
    """A thread that does `act` to the processes of the command under way, when the run has had two more epochs."""

    def do():
        deadline, before = time.monotonic() + 120, epochs_of(run)
        while epochs_of(run) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        act([child.pid for child in multiprocessing.active_children()])

    thread = threading.Thread(target=do)
    thread.start()
    return thread


def launch_afresh(words):
    """A command in a process forked from this one, whose server for launched processes is not its own."""
    server = forkserver._forkserver
    server._forkserver_pid = server._forkserver_address = server._forkserver_alive_fd = None
    command(words)


def end(run):
    """Stop the command under way as Ctrl-C does, for a run that would take too long."""
    return in_the_middle(run, lambda _: os.kill(os.getpid(), signal.SIGINT))


def test_a_killed_process_costs_a_restart_from_the_last_checkpoint(cikd, teacher, recipe, capfd):
    words = ("ali", "--teacher", teacher, "--recipe", recipe, "--gpus", "cpu", "--processes", "2", "--save-every", "1e")
    cikd(*words, "--epochs", "12", "--name", "straight")
    killer = in_the_middle(Path("runs/broken"), lambda pids: os.kill(max(pids), signal.SIGKILL))
    said = cikd(*words, "--epochs", "12", "--name", "broken").output + capfd.readouterr().err
    killer.join()
    assert "ended without a word, killed perhaps; all go on from the last checkpoint (restart 1 of 3)" in said
    assert differences(Path("runs/straight"), Path("runs/broken")) == []


def test_an_error_is_told_with_the_log_of_its_process_and_not_tried_again(cikd, teacher, recipe):
    words = ("ali", "--teacher", teacher, "--recipe", recipe, "--gpus", "cpu", "--processes", "2", "--lr", "1e30")
    said = cikd(*words, "--warmup", "0", code=1).output
    assert "stopped being finite in epoch 1" in said
    assert "restart" not in said
    logs = sorted(Path("runs/ali-001/ranks").iterdir())
    assert [log.name for log in logs] == ["rank-0.log", "rank-1.log"]
    assert any(f"The log of process {rank}: {log}" in said for rank, log in enumerate(logs))
    assert any("stopped being finite" in log.read_text() for log in logs)
    assert RunDir.open("runs/ali-001", finished=False).record.status == "failed"


def test_a_process_that_stands_still_is_named_with_its_log(cikd, teacher, recipe):
    words = ("ali", "--teacher", teacher, "--recipe", recipe, *FOUR_THOUSAND, "--stall-after", "3s")
    stopper = in_the_middle(Path("runs/ali-001"), lambda pids: os.kill(max(pids), signal.SIGSTOP))
    begun = time.monotonic()
    said = cikd(*words, code=1).output
    stopper.join()
    assert "Process 1 has not moved for 3.0 s, and the others wait. The log of process 1: " in said
    assert "ranks/rank-1.log" in said
    assert "--stall-after" in said
    assert "in fit\n" in Path("runs/ali-001/ranks/rank-0.log").read_text()  # where the waiting one stood
    assert time.monotonic() - begun < 60


def test_a_signal_to_one_process_stops_all_and_the_run_is_saved(cikd, teacher, recipe):
    run = Path("runs/ali-001")
    stopper = in_the_middle(run, lambda pids: os.kill(max(pids), signal.SIGTERM))
    begun = time.monotonic()
    said = cikd("ali", "--teacher", teacher, "--recipe", recipe, *FOUR_THOUSAND, code=EXIT_INTERRUPTED).output
    stopper.join()
    assert "cikd ali --resume runs/ali-001" in said
    assert said.count("runs/ali-001 stopped on SIGTERM (a time limit, a shutdown or kill) after epoch ") == 1
    assert "restart" not in said
    assert RunDir.open(run, finished=False).record.status == "interrupted"
    assert (run / "checkpoints/last.safetensors").exists()
    assert not (run / "ranks").exists()
    assert time.monotonic() - begun < 30  # torch elastic waits so long for a process that waits for it


def test_when_the_launcher_is_killed_its_processes_save_and_end_and_until_then_the_run_is_locked(
    cikd, teacher, recipe, tmp_path
):
    run, last = Path("runs/ali-001"), Path("runs/ali-001/checkpoints/last.safetensors")
    words = ("ali", "--teacher", teacher, "--recipe", recipe, *FOUR_THOUSAND)
    pid = fork(lambda: launch_afresh(words), tmp_path / "said.txt")
    wait_for(lambda: epochs_of(run) >= 2, pid, within=180)
    assert not last.exists()
    os.kill(pid, signal.SIGUSR1)  # as a scheduler does: to the parent alone
    wait_for(last.exists, pid)
    before = epochs_of(run)
    wait_for(lambda: epochs_of(run) >= before + 3, pid)
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    killed = time.monotonic()
    assert RunDir.open(run, finished=False).is_locked()
    while RunDir.open(run, finished=False).is_locked():
        assert time.monotonic() - killed < 25
        time.sleep(0.02)
    record = RunDir.open(run, finished=False).record
    assert record.status == "interrupted"
    assert record.message.startswith("stopped as the process that had started it was gone after epoch ")
    assert last.with_name("previous.safetensors").exists()
    ender = end(run)
    said = cikd("ali", "--resume", run, "--gpus", "cpu", "--processes", "2", code=EXIT_INTERRUPTED).output
    ender.join()
    assert "cikd ali --resume runs/ali-001" in said
    assert RunDir.open(run, finished=False).record.status == "interrupted"
    assert not (run / "ranks").exists()


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_gradients_of_a_step_are_exchanged_once_however_many_micro_batches_it_has(accumulate):
    model = create_student("custom", num_classes=3, image_size=16, patch_size=4, end_heads=2, width=8, depth=2, heads=1)
    config = FinetuneTeacherConfig(batch_size=8, accumulate=accumulate, warmup=0, precision="fp32")
    method = Supervised(model, mean=HALF, std=HALF, smoothing=0.0)
    pictures = Split(np.zeros((8, 16, 16, 3), dtype=np.uint8), np.zeros(8, dtype=np.int64))
    law = ViewLaw(image_size=16)
    loader = TrainLoader(DecodedSplit(pictures), law, batch_size=8, seed=0, two_views=False, workers=0)
    exchanged = []

    def count(_, bucket):
        exchanged.append(len(bucket.buffer()))
        return allreduce_hook(None, bucket)

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        training = Training(config, method, loader, "fp32", World(torch.device("cpu")))
        training.wrapped = DistributedDataParallel(method)
        training.wrapped.register_comm_hook(None, count)
        for step, batch in enumerate(loader.batches(0, 3)):
            exchanged.clear()
            train_step([training], batch, World(torch.device("cpu")), step=step, epoch=step)
            assert sum(exchanged) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    finally:
        dist.destroy_process_group()


def test_more_gpus_than_there_are_is_a_sentence():
    there = torch.cuda.device_count()
    with pytest.raises(CikdError) as raised:
        choose_hardware(str(there + 4))
    assert raised.value.exit_code == 2
    assert "--gpus" in str(raised.value.hint)


@pytest.mark.parametrize("words", ["many", "0,x", "-1"])
def test_a_wrong_list_of_gpus_is_a_sentence(words):
    with pytest.raises(CikdError):
        choose_hardware(words)


def test_cpu_takes_the_processes_asked_for():
    assert choose_hardware("cpu", 2) == Hardware((), 2)


def test_a_batch_that_cannot_be_divided_among_processes_is_refused_before_anything_is_written(cikd, teacher, recipe):
    words = ("ali", "--teacher", teacher, "--recipe", recipe, "--gpus", "cpu", "--processes", "3")
    assert "divided" in cikd(*words, code=2).output
