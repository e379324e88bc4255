"""Several processes: the same stream, the same result, and one sentence when something is wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cikd_cli.engine.distributed import Hardware, choose_hardware
from cikd_cli.errors import EXIT_INTERRUPTED, CikdError
from cikd_cli.models.weights import load_model
from cikd_cli.runs import RunDir


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
    assert RunDir.open("runs/two").record["world_size"] == 2


def test_sigusr1_saves_and_goes_on_and_ctrl_c_reaches_every_process_and_the_run_is_saved(teacher, recipe):
    words = ("ali", "--teacher", teacher, "--recipe", recipe, "--epochs", "5000", "--gpus", "cpu", "--processes", "2")
    command = [sys.executable, "-m", "cikd_cli", *map(str, words)]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = Path("runs/ali-001/metrics.jsonl")
    deadline = time.monotonic() + 180
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    last = Path("runs/ali-001/checkpoints/last.safetensors")
    assert not last.exists()
    process.send_signal(signal.SIGUSR1)  # as a scheduler does: to the parent alone
    while not last.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    epochs = metrics.read_text().count("\n")
    while metrics.read_text().count("\n") < epochs + 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the parent and to its workers
    said = process.communicate(timeout=120)
    assert process.returncode == EXIT_INTERRUPTED, said
    assert "cikd ali --resume runs/ali-001" in said[1]
    assert "Traceback" not in said[1]
    assert RunDir.open("runs/ali-001", finished=False).record["status"] == "interrupted"
    assert last.exists()
    assert last.with_name("previous.safetensors").exists()


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
