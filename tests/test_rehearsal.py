"""What a run will cost is said before it starts: for every stage, without a teacher run, and near the truth."""

import json
from pathlib import Path

import pytest
import torch

from cikd_cli.processes.world import Hardware
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.methods import FinetuneTeacherConfig
from cikd_cli.settings.recipes import resolve
from cikd_cli.settings.request import RunOptions
from cikd_cli.settings.stages import STAGES
from cikd_cli.training import ahead, rehearsal
from cikd_cli.training.job import build

CPU = Hardware((), 1)


def teacher_job(photos, recipe):
    options = RunOptions(recipe=str(recipe))
    config = resolve(FinetuneTeacherConfig, "finetune-teacher", {"data": str(photos)}, options=options).config
    return build(STAGES["finetune-teacher"], config, CPU.device)


def test_a_dry_run_of_the_curriculum_costs_every_stage_and_writes_nothing(cikd, photos, recipe, tmp_path):
    before = set(tmp_path.rglob("*"))
    words = ("run", "--data", photos, "--recipe", recipe, "--dry-run", "--baseline")
    told = json.loads(cikd(*words, "--json").stdout)
    steps = {"finetune-teacher": 9, "ali": 9, "lm": 9, "baseline": 18}
    assert {name: cost["steps"] for name, cost in told["stages"].items()} == steps
    for cost in told["stages"].values():
        assert cost["seconds"] > 0
        assert 100 < cost["memory_mib"] < 10_000
        assert cost["disk_mib"] > 0
    assert told["seconds"] == pytest.approx(sum(cost["seconds"] for cost in told["stages"].values()), abs=0.01)
    said = cikd(*words).stdout
    for name in ("finetune-teacher", "ali", "lm", "baseline", "all"):
        assert any(line.startswith(name) for line in said.splitlines())
    assert "nothing was written" in said
    assert set(tmp_path.rglob("*")) == before


def test_a_dry_run_counts_what_is_missing_only(cikd, photos, recipe):
    words = ("run", "--data", photos, "--recipe", recipe)
    cikd(*words, "--quiet")
    told = json.loads(cikd(*words, "--set", "lm.epochs=2", "--dry-run", "--json").stdout)["stages"]
    assert {name: cost["steps"] for name, cost in told.items()} == {"finetune-teacher": 0, "ali": 0, "lm": 6}
    assert "finished; taken as it is" in cikd(*words, "--dry-run").stdout
    assert "finished; taken as it is" not in cikd(*words, "--dry-run", "--fresh").stdout


def test_a_dry_run_needs_no_weights_of_the_teacher(cikd, photos, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ("--teacher", "deit_tiny_patch16_224", "--image-size", "32", "--student", "vit_pico")
    said = cikd("run", "--data", photos, *words, "--dry-run").stdout
    assert "still to be downloaded" in said
    assert "a few steps of every stage went well" in said


def test_the_hours_of_a_dry_run_are_near_those_of_the_run(cikd, photos, recipe):
    words = ("run", "--data", photos, "--recipe", recipe, "--set", "epochs=60", "--set", "eval_every=60")
    foretold = json.loads(cikd(*words, "--dry-run", "--json").stdout)["stages"]
    made = json.loads(cikd(*words, "--json").stdout)
    for name, run in (("finetune-teacher", "teacher"), ("ali", "ali"), ("lm", "lm")):
        took = RunDir.open(made[run]).record.result.seconds
        assert took / 5 < foretold[name]["seconds"] < took * 5, name


def test_the_counted_memory_grows_with_the_batch_and_with_the_moments(photos, recipe):
    job = teacher_job(photos, recipe)
    small = rehearsal.cost_of(job, CPU, RunOptions(), resident=0)
    job.config = job.config.model_copy(update={"batch_size": 4096})
    assert rehearsal._counted_bytes(job, CPU) > 100 * small.memory_mib * 2**20 / 2


def test_a_rehearsal_leaves_weights_and_random_numbers_as_they_were(photos, recipe):
    job = teacher_job(photos, recipe)
    before = {name: tensor.clone() for name, tensor in job.method.state_dict().items()}
    state = torch.get_rng_state()
    assert rehearsal.seconds_of([job], CPU, RunOptions()) > 0
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in job.method.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in job.method.parameters())


@pytest.mark.parametrize("stage", ["finetune-teacher", "ali", "lm"])
def test_a_stage_that_was_foretold_ends_with_the_same_weights_bit_for_bit(cikd, photos, recipe, monkeypatch, stage):
    cikd("run", "--data", photos, "--recipe", recipe, "--quiet")
    plain = {"finetune-teacher": "teacher-001", "ali": "ali-001", "lm": "lm-001"}[stage]
    parents = {
        "finetune-teacher": ("--data", photos),
        "ali": ("--teacher", "runs/teacher-001"),
        "lm": ("--from", "runs/ali-001"),
    }
    monkeypatch.setattr(rehearsal, "SHORT", 0.0)
    said = cikd(stage, *parents[stage], "--recipe", recipe, "--name", "again").stdout
    assert "on CPU" in next(line for line in said.splitlines() if line.startswith("plan"))
    weights = [Path("runs", name, "model.safetensors").read_bytes() for name in (plain, "again")]
    assert weights[0] == weights[1]


def test_the_start_of_a_long_run_says_the_hours_of_all_stages(cikd, photos, recipe, monkeypatch):
    words = ("run", "--data", photos, "--recipe", recipe)
    assert "of training on CPU" not in cikd(*words).stdout
    monkeypatch.setattr(rehearsal, "SHORT", 0.0)
    said = cikd(*words, "--fresh").stdout
    assert "of training on CPU: finetune-teacher" in said
    assert "laptop" not in said


# ---- the laptop recipe ----


def test_more_than_twelve_hours_offer_the_laptop_recipe_with_its_hours(cikd, photos, recipe):
    words = ("--data", photos, "--recipe", recipe, "--dry-run")
    for command in ("run", "finetune-teacher"):
        said = cikd(command, *words, "--set", "epochs=100000000").stderr
        assert "this would take about " in said
        assert f"cikd run --data {photos} --recipe laptop (smaller networks and images) takes about " in said
        assert "laptop" not in cikd(command, *words).output


def test_a_run_that_will_take_long_is_offered_the_laptop_recipe_when_it_starts(cikd, photos, recipe, monkeypatch):
    monkeypatch.setattr(rehearsal, "SHORT", 0.0)
    monkeypatch.setattr(ahead, "LONG", 0.0)
    words = ("--data", photos, "--recipe", recipe)
    assert cikd("run", *words).output.count("this would take about") == 1
    assert cikd("finetune-teacher", *words).output.count("this would take about") == 1
    assert "this would take" not in cikd("finetune-teacher", *words, "--quiet").output


def test_the_header_of_a_run_lists_what_its_recipe_sets(cikd, photos):
    scratch = ("--teacher", "scratch", "--set", "teacher_depth=1", "--epochs", "2")
    said = cikd("finetune-teacher", "--data", photos, "--recipe", "laptop", *scratch, "--dry-run").stdout
    assert "it sets image_size 112, decode_size 256" in said
    assert "batch 3 by the data (30 images)" in said


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.2, "about 1 s"),
        (40, "about 40 s"),
        (776, "about 13 min"),
        (11_640, "about 3 h 10 min"),
        (1.1e5, "about 31 h"),
    ],
)
def test_an_estimate_is_told_as_precisely_as_it_deserves(seconds, told):
    assert rehearsal.roughly(seconds) == told
