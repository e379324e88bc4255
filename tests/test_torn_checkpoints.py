"""Checkpoints that are not what was written are found, named and passed over."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from claimed import make
from crash import contents
from numbered import load, save, tear
from pydantic import TypeAdapter

from cikd_cli.engine.checkpoint import LAST, PREVIOUS, UNSIGNED, About, Progress
from cikd_cli.errors import CikdError


@pytest.mark.parametrize("byte", [3, 40, 200, -1], ids=["length", "header", "checksum", "tensor"])
def test_a_flipped_bit_is_found_and_named_and_the_previous_checkpoint_taken(tmp_path, byte):
    run = make(tmp_path, done=False)
    save(run, 1)
    save(run, 2)
    last, told = run.checkpoints / LAST, []
    content = bytearray(last.read_bytes())
    content[byte] ^= 4
    last.write_bytes(content)
    assert load(run, told) == 1
    assert "last.safetensors is damaged" in told[0]


def test_any_flipped_bit_of_a_checkpoint_is_found(tmp_path):
    run = make(tmp_path, done=False)
    save(run, 1)
    last = run.checkpoints / LAST
    whole = last.read_bytes()
    for place in range(0, 8 * len(whole), 13):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        last.write_bytes(content)
        with pytest.raises(CikdError, match=r"last\.safetensors is damaged"):
            load(run)


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path):
    run, other = make(tmp_path, done=False), make(tmp_path, done=False)
    save(run, 1)
    save(run, 2)
    save(other, 9)
    shutil.copy(other.checkpoints / LAST, run.checkpoints / LAST)
    told = []
    assert load(run, told) == 1
    assert "last.safetensors belongs to another run" in told[0]


def test_when_last_and_previous_are_torn_a_periodic_checkpoint_is_taken(tmp_path):
    run = make(tmp_path, done=False)
    for step in (1, 2, 3):
        save(run, step, keep_as=f"epoch-{step:04d}" if step < 3 else None)
    for name in (LAST, PREVIOUS):
        tear(run.checkpoints / name)
    told = []
    assert load(run, told) == 2
    assert len(told) == 2


def test_when_no_checkpoint_is_whole_that_is_a_sentence_and_nothing_changes(cikd, teacher):
    for path in Path(teacher, "checkpoints").iterdir():
        tear(path)
    before = contents("runs")
    said = cikd("finetune-teacher", "--resume", teacher, "--epochs", "5", code=2).output
    assert "last.safetensors is damaged" in said
    assert "start a new run" in said
    assert contents("runs") == before


def test_a_finished_run_without_checkpoints_is_not_trained_anew_in_place(cikd, teacher):
    shutil.rmtree(Path(teacher, "checkpoints"))
    before = contents("runs")
    assert "no checkpoint any more" in cikd("finetune-teacher", "--resume", teacher, "--epochs", "5", code=2).output
    assert contents("runs") == before


def test_the_scaler_of_half_precision_goes_on_behind_a_checkpoint():
    before = torch.amp.GradScaler("cpu")
    before.scale(torch.ones(1))
    about = About("x", UNSIGNED, Progress(scaler=before.state_dict()))
    after = torch.amp.GradScaler("cpu")
    after.load_state_dict(TypeAdapter(About).validate_json(json.dumps(asdict(about))).progress.scaler)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    after.scale(weight.sum()).backward()
    after.step(optimizer)
    after.update()  # which takes whole numbers only
    assert weight.item() == pytest.approx(0.9)
