"""`cikd ali --lob 1,2,3`: several students on one pass of the teacher, each a run like any other."""

import json
from pathlib import Path

import pytest
from test_resume import _rows, stopped_after

from cikd_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.runs.directory import RunDir

LOBS = (3, 1, 2)


@pytest.fixture
def words(teacher, recipe):
    return ("ali", "--teacher", teacher, "--recipe", recipe, "--quiet")


@pytest.mark.parametrize("extra", [("--set", "eval_every=1"), ("--accumulate", "2", "--ema", "0.9")])
def test_each_student_is_the_run_that_its_block_alone_makes(cikd, words, extra):
    cikd(*words, *extra, "--lob", "3,1,2", "--name", "all")
    for lob in LOBS:
        cikd(*words, *extra, "--lob", lob, "--name", "alone")
        alone, together = Path("runs/alone"), Path(f"runs/all-lob{lob}")
        for file in ("model.safetensors", "config.toml"):
            assert (alone / file).read_bytes() == (together / file).read_bytes(), (lob, file)
        assert _rows(alone) == _rows(together)
        alone.rename(f"alone-{lob}")
    losses = {RunDir.open(f"runs/all-lob{lob}").metrics()[-1]["loss"] for lob in LOBS}
    assert len(losses) == len(LOBS)  # else equality would say nothing


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_teacher_sees_each_micro_batch_once(cikd, words, accumulate, monkeypatch):
    seen, taps = [], FrozenTeacher.taps
    monkeypatch.setattr(FrozenTeacher, "taps", lambda *given: seen.append(len(given[1])) or taps(*given))
    cikd(*words, "--lob", "3,1,2", "--epochs", "2", "--accumulate", accumulate)
    assert seen == [8 // accumulate] * (2 * 3 * accumulate)  # epochs, steps of 8 of the 30 images


def test_the_runs_are_numbered_have_logs_and_go_on_to_lm(cikd, words):
    summary = json.loads(cikd(*words, "--lob", "1,2", "--epochs", "1", "--json").stdout)
    assert [run["run"] for run in summary["runs"]] == ["runs/ali-001", "runs/ali-002"]
    assert {run["status"] for run in summary["runs"]} == {"done"}
    for number, run in enumerate(summary["runs"], start=1):
        assert RunDir.open(run["run"]).config()["lob"] == number
        assert "2 students" in Path(run["run"], "log.txt").read_text()
    said = cikd("lm", "--from", "runs/ali-002", "--epochs", "1").output
    assert "trunk from runs/ali-002" in said


def test_a_signal_saves_all_and_each_continues_alone_to_the_weights_of_a_straight_run(cikd, words):
    words = (*words, "--epochs", "40")
    with stopped_after(5, "runs/all-lob2"):
        said = cikd(*words, "--lob", "2,3", "--name", "all", code=EXIT_INTERRUPTED).output
    for lob in (2, 3):
        run = f"runs/all-lob{lob}"
        assert f"cikd ali --resume {run}" in said
        assert RunDir.open(run, finished=False).record.status == "interrupted"
        cikd("ali", "--resume", run, "--quiet")
    cikd(*words, "--lob", "3", "--name", "straight")
    straight, broken = (Path(f"runs/{name}/model.safetensors").read_bytes() for name in ("straight", "all-lob3"))
    assert straight == broken


def test_a_loss_that_is_not_finite_stops_all_and_names_its_run(cikd, words):
    said = cikd(*words, "--lob", "2,3", "--lr", "1e30", "--warmup", "0", code=EXIT_FAILED).output
    assert "of runs/ali-001" in said
    for run in ("runs/ali-001", "runs/ali-002"):
        record = RunDir.open(run, finished=False).record
        assert record.status == "failed"
        assert "runs/ali-001" in record.message


def test_a_dry_run_plans_for_all_and_writes_nothing(cikd, teacher, recipe):
    words = ("ali", "--teacher", teacher, "--recipe", recipe, "--dry-run")
    one = json.loads(cikd(*words, "--json").stdout)["plan"]
    said = cikd(*words, "--lob", "1,3")
    assert "2 students" in said.output
    assert "lob=1,3" in said.output
    assert "teacher block 3 → student block 3" in said.output
    two = json.loads(cikd(*words, "--lob", "1,3", "--json").stdout)["plan"]
    assert two["disk_mib"] == pytest.approx(2 * one["disk_mib"], abs=0.1)
    assert not list(Path("runs").glob("ali*"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--lob", "2,2"), "names a value twice"),
        (("--lob", "2,auto"), "auto stands alone"),
        (("--lob", "2,"), "nothing stands beside a comma"),
        (("--lob", "2,4"), "The learning objective block 4 is outside 1..3"),
        (("--lob", "2,3", "--pairs", "1:1"), "so --lob has none to choose"),
        (("--lob", "2,3", "--processes", "2", "--gpus", "cpu"), "by one process, not by 2"),
        (("--set", "lob=2,3"), "lob must be one block here"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_before_a_run_is_made(cikd, words, given, sentence):
    assert sentence in cikd(*words, *given, code=2).output
    assert not list(Path("runs").glob("ali*"))


@pytest.mark.parametrize("command", [("run",), ("config", "ali")])
def test_other_commands_take_one_block(cikd, command):
    assert "lob must be one block here (only cikd ali" in cikd(*command, "--lob", "7,8", code=2).output


def test_a_taken_name_is_refused_and_a_resume_takes_no_list(cikd, words):
    cikd(*words, "--lob", "3", "--name", "all-lob3", "--epochs", "1")
    assert "runs/all-lob3 exists already" in cikd(*words, "--lob", "2,3", "--name", "all", code=2).output
    said = cikd("ali", "--resume", "runs/all-lob3", "--lob", "2,3", code=2).output
    assert "--lob cannot be given" in said
    assert not Path("runs/all-lob2").exists()
