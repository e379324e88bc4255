"""The run directory: claimed once, written whole, opened through one gate."""

import json
import math
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
from claimed import RESULT, make

from cikd_cli.errors import CikdError
from cikd_cli.files import to_json, write_atomically
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.metrics import append_metrics, drop_metrics_after


def test_a_run_is_claimed_with_its_record_and_config_and_nothing_else(tmp_path):
    run = make(tmp_path / "runs", done=False)
    assert run.path.name == "ali-001"
    assert sorted(path.name for path in run.path.iterdir()) == ["config.toml", "run.json"]
    assert json.loads((run.path / "run.json").read_text())["status"] == "running"


def test_the_config_reads_back_as_written_without_what_is_none(tmp_path):
    assert make(tmp_path).config() == {"data": "digits", "lr": 1e-3, "betas": [0.9, 0.95]}


def test_a_number_is_never_given_twice_even_after_its_run_was_deleted(tmp_path):
    make(tmp_path)
    shutil.rmtree(make(tmp_path).path)
    assert make(tmp_path).path.name == "ali-003"


def test_numbers_go_on_without_the_memory_file_and_after_a_name_that_looks_like_one(tmp_path):
    make(tmp_path, name="ali-041")
    (tmp_path / ".numbers.json").write_text("broken")
    assert make(tmp_path).path.name == "ali-042"


def claim_some(runs_dir, names):
    names.put([make(runs_dir, done=False).path.name for _ in range(10)])


def test_processes_that_claim_at_once_get_different_numbers(tmp_path):
    context = multiprocessing.get_context("fork")
    names = context.Queue()
    workers = [context.Process(target=claim_some, args=(tmp_path, names)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [name for _ in workers for name in names.get(timeout=30)]
    for worker in workers:
        worker.join()
    assert sorted(found) == [f"ali-{number:03d}" for number in range(1, 31)]


def test_a_taken_name_is_refused_and_left_as_it_is(tmp_path):
    first = make(tmp_path, name="mine")
    before = (first.path / "run.json").read_bytes()
    with pytest.raises(CikdError, match="mine exists already"):
        make(tmp_path, name="mine")
    assert (first.path / "run.json").read_bytes() == before


@pytest.mark.parametrize("name", ["", "../out", ".hidden", "a/b", "a\x1b"])
def test_a_name_that_is_no_plain_folder_name_is_refused(tmp_path, name):
    with pytest.raises(CikdError, match="cannot be the name of a run"):
        make(tmp_path, name=name)


def test_a_runs_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CikdError, match="Cannot write") as caught:
        make(tmp_path / "file" / "runs")
    assert "--runs-dir" in caught.value.hint


def test_a_full_disk_is_a_sentence_and_exit_code_1(tmp_path):
    run = make(tmp_path, done=False)
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(CikdError, match="No space left") as caught:
        append_metrics(run.path, {"epoch": 1})
    assert caught.value.exit_code == 1


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CikdError, match="No space left"):
        write_atomically(path, b"new")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"run.json": b"old"}


# ---- the gate ----


def test_a_missing_run_is_named_with_the_nearest_there_is(tmp_path):
    make(tmp_path)
    with pytest.raises(CikdError, match="There is no run") as caught:
        RunDir.open(tmp_path / "ali-01")
    assert caught.value.hint == f"did you mean {tmp_path / 'ali-001'}?"


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CikdError, match="is not a run"):
        RunDir.open(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"stage": 3}', '{"stage": "ali", "status": "done", "format": 99}'])
def test_a_damaged_or_foreign_record_is_refused(tmp_path, text):
    run = make(tmp_path)
    (run.path / "run.json").write_text(text)
    with pytest.raises(CikdError, match=r"damaged|not written by cikd|format 99"):
        RunDir.open(run.path)


def test_a_run_of_another_stage_is_refused_and_its_own_parent_offered(tmp_path):
    ali = make(tmp_path)
    lm = make(tmp_path, "lm", parents=[ali])
    with pytest.raises(CikdError, match="is of the stage lm, but ali is needed") as caught:
        RunDir.open(lm.path, stages=["ali"])
    assert caught.value.hint == f"its ali run is {ali.path}"


def test_a_stopped_run_says_after_which_epoch_and_how_to_go_on(tmp_path):
    run = make(tmp_path, done=False)
    run.update(progress={"epoch": 37, "epochs": 300})
    with pytest.raises(CikdError) as caught:
        RunDir.open(run.path)
    assert caught.value.message == f"{run.path} stopped after epoch 37 of 300."
    assert caught.value.hint == f"continue it with  cikd ali --resume {run.path}"


def test_a_failed_run_says_why(tmp_path):
    run = make(tmp_path, done=False)
    run.fail("failed", "the loss is NaN in epoch 3")
    with pytest.raises(CikdError, match="failed in its first epoch: the loss is NaN in epoch 3"):
        RunDir.open(run.path)


def test_a_run_at_work_is_refused_with_its_process_named(tmp_path):
    run = make(tmp_path, done=False)
    with run.lock(), pytest.raises(CikdError, match=f"still running .process {os.getpid()} on "):
        RunDir.open(run.path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.toml"])
def test_an_edited_or_missing_file_is_refused(tmp_path, name):
    run = make(tmp_path)
    RunDir.open(run.path)
    content = (run.path / name).read_bytes()
    (run.path / name).write_bytes(content + b"\n")
    with pytest.raises(CikdError, match=f"{name} was changed"):
        RunDir.open(run.path)
    (run.path / name).unlink()
    with pytest.raises(CikdError, match=f"{name} is missing"):
        RunDir.open(run.path)


def test_an_unfinished_run_opens_where_that_is_allowed(tmp_path):
    run = make(tmp_path, done=False)
    assert RunDir.open(run.path, finished=False).record.stage == "ali"


# ---- metrics and record ----


def test_dropping_later_epochs_leaves_no_gap_and_no_repeat(tmp_path):
    run = make(tmp_path, done=False)
    for epoch in (1, 2, 3):
        append_metrics(run.path, {"epoch": epoch, "loss": 1 / epoch})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lo')  # torn by a crash
    drop_metrics_after(run.path, 2)
    append_metrics(run.path, {"epoch": 3})
    assert [row["epoch"] for row in run.metrics()] == [1, 2, 3]


def test_json_holds_null_for_what_it_cannot_hold():
    assert json.loads(to_json({"a": math.nan, "b": [math.inf, (1, Path("x"))]})) == {"a": None, "b": [None, [1, "x"]]}


def test_seconds_add_up_over_a_resume(tmp_path):
    run = make(tmp_path, done=False)
    run.update(seconds=0)
    record = json.loads((run.path / "run.json").read_text()) | {"seconds": 100.0}
    write_atomically(run.path / "run.json", json.dumps(record).encode())
    again = RunDir.open(run.path, finished=False)
    again.finish(RESULT)
    assert 100 <= again.record.seconds < 160
