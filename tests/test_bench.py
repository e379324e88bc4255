"""`cikd bench`: equal work on both sides, what it prints, and what it refuses."""

import json
import math
import os
import platform
import statistics
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cikd_cli.bench import measure as bench_measure
from cikd_cli.bench import timing
from cikd_cli.bench.contest import step_contest
from cikd_cli.bench.measure import Contest, measure
from cikd_cli.bench.networks import Case, build_method, build_rival
from cikd_cli.bench.reference import load_reference
from cikd_cli.bench.timing import interleaved, matrix_peak, ratios
from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.weights import HALF
from cikd_cli.settings.configs import AliConfig, FinetuneTeacherConfig, LmConfig

CPU = torch.device("cpu")
TINY = {"teacher": "scratch", "teacher_width": 24, "teacher_depth": 3, "teacher_heads": 3, "teacher_patch": 8}
STUDENT = {"student": "custom", "student_width": 12, "student_depth": 3, "student_heads": 2, "image_size": 32}

RECIPE = f"""
[common]
image_size = 32
batch_size = 4
epochs = 3
precision = "fp32"

[finetune-teacher]
{chr(10).join(f"{key} = {value!r}" for key, value in TINY.items())}

[ali]
student = "custom"
student_width = 12
student_depth = 3
student_heads = 2
lob = 2

[lm]
student = "custom"
student_width = 12
student_depth = 3
student_heads = 2
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def case(**values):
    both = STUDENT | {"drop_path": 0.0} | values
    return Case(AliConfig(lob=2, **both), LmConfig(**both), FinetuneTeacherConfig(**TINY), num_classes=7)


def test_the_cached_step_never_asks_the_teacher(monkeypatch):
    entrants = step_contest(case(precision="fp32", batch_size=4), "lm", CPU).entrants
    asked = []
    logits = FrozenTeacher.logits
    monkeypatch.setattr(FrozenTeacher, "logits", lambda self, images: (asked.append(1), logits(self, images))[1])
    entrants["cached"]()
    entrants["cached"]()
    assert asked == []
    entrants["tool"]()
    assert asked == [1]


def batch(images=5):
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (2, images, 3, 32, 32), generator=generator, dtype=torch.uint8)
    index = torch.arange(images)
    return Batch(views[0], index % 7, views[1], index)


# ---- equal work ----


@pytest.mark.parametrize("lob", [1, 2, 3])
def test_the_references_ali_loss_is_the_tools(lob):
    sizes, shown = case().but(lob=lob), batch()
    own = sum(build_method(sizes, "ali", device=CPU, precision="fp32")(shown, 9).values()).item()
    images, clean = (normalise(x, HALF, HALF) for x in (shown.images, shown.teacher_images))
    theirs = sum(load_reference().ali_terms(*build_rival(sizes, "ali"), images, clean, lob=lob))
    assert own > 0
    assert theirs.item() == pytest.approx(own, rel=1e-5)


def test_the_references_lm_loss_is_the_tools():
    shown = batch()
    own = build_method(case(), "lm", device=CPU, precision="fp32")(shown, 9)
    theirs = load_reference().lm_terms(*build_rival(case(), "lm"), normalise(shown.images, HALF, HALF), shown.targets)
    expected = [own["ce"].item(), (own["tckd"] + own["nckd"]).item()]
    assert [term.item() for term in theirs] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", ["ali", "lm"])
def test_the_references_gradients_are_the_tools(stage):
    shown, rival = batch(), load_reference()
    method = build_method(case(), stage, device=CPU, precision="fp32")
    student, teacher = build_rival(case(), stage)
    images = normalise(shown.images, HALF, HALF)
    if stage == "ali":
        theirs = rival.ali_terms(student, teacher, images, normalise(shown.teacher_images, HALF, HALF), lob=2)
    else:
        theirs = rival.lm_terms(student, teacher, images, shown.targets)
    sum(theirs).backward()
    sum(method(shown, 9).values()).backward()
    for (name, own), other in zip(method.student.named_parameters(), student.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None), name
        if own.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_known_logits_give_the_loss_of_the_teacher_that_made_them():
    shown = batch()
    method = build_method(case(), "lm", device=CPU, precision="fp32")
    logits = method.teacher.logits(normalise(shown.images, HALF, HALF))
    known = build_method(case(), "lm", device=CPU, precision="fp32", logits=logits)
    assert {k: v.item() for k, v in known(shown, 9).items()} == {k: v.item() for k, v in method(shown, 9).items()}


def test_a_reference_step_reads_three_numbers_back_and_learns():
    rival, shown = load_reference(), batch()
    student, teacher = build_rival(case(), "lm")
    step = rival.Step(
        lambda images, targets: rival.lm_terms(student, teacher, images, targets),
        [{"params": list(student.parameters()), "lr_scale": 1.0}],
        betas=(0.9, 0.999),
        dtype=torch.float32,
        device=CPU,
    )
    told = [step(normalise(shown.images, HALF, HALF), shown.targets, lr=1e-2) for _ in range(5)]
    assert all(loss == pytest.approx(first + second, rel=1e-5) for loss, first, second in told)
    assert told[-1][0] < told[0][0]


def test_reference_views_are_float_batches_of_one_size():
    rival = load_reference()
    pixels = list(np.random.default_rng(0).integers(0, 256, (3, 10, 14, 3), dtype=np.uint8))
    student, teacher = rival.collate(rival.AliViews(8), pixels)
    for views in (student, teacher, rival.collate(rival.LmViews(8), pixels)):
        assert views.shape == (3, 3, 8, 8)
        assert views.dtype == torch.float32
        assert views.abs().max() <= 1
    assert not torch.equal(student, teacher)


# ---- timing ----


def test_entrants_take_turns_and_every_second_round_goes_backwards():
    calls = []
    acts = {name: (lambda name=name: (calls.append(name), sum(range(3_000_000)))) for name in ("a", "b")}
    seconds = interleaved(acts, rounds=3, device=CPU)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    in_turn = [name for name, before in zip(calls[6:], [None, *calls[6:]], strict=False) if name != before]
    assert in_turn == ["a", "b", "a", "b"]  # a b, b a, a b


def test_a_ratio_is_formed_round_by_round():
    assert ratios([2.0, 3.0, 8.0], [1.0, 3.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 4.0}


def test_what_does_not_fit_into_memory_is_counted_and_not_started(monkeypatch):
    def act():
        raise AssertionError("started")

    work = {
        name: SimpleNamespace(flops=lambda: 7, peak_bytes=lambda n, k=k: k * n)
        for name, k in (("reference", 2), ("tool", 1))
    }
    contest = Contest("ali", 100, {"reference": act, "tool": lambda: None}, work)
    monkeypatch.setattr(bench_measure, "available_bytes", lambda: 279.0)  # of the 200 times 1.4 that it wants
    reference, tool = measure(contest, rounds=1, device=CPU)
    assert reference == {
        "what": "ali",
        "entrant": "reference",
        "batch_size": 100,
        "out_of_memory": True,
        "memory_bytes": 200,
        "memory_source": "counted",
    }
    assert tool["memory_bytes"] == 100
    assert len(tool["seconds"]) == 1
    assert tool["speedup"] is None


@pytest.mark.parametrize(
    ("told", "room"),
    [
        ("MemTotal:  24604 kB\nMemFree:  3 kB\nMemAvailable:      1000 kB\nHugePages_Total:  0\n", 1_024_000),
        ("MemTotal:  24604 kB\n", math.inf),
        (None, math.inf),
    ],
    ids=["linux", "without the line", "elsewhere"],
)
def test_room_is_what_the_system_says_that_programs_can_still_have(told, room, tmp_path, monkeypatch):
    if told is not None:
        (tmp_path / "meminfo").write_text(told)
    monkeypatch.setattr(timing, "_MEMORY", tmp_path / "meminfo")
    assert timing.available_bytes() == room


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_was_freed_is_given_back_before_it_is_counted():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [torch.ones(2**12) for _ in range(2**12)]  # 64 MiB, in pieces that lie in the heap
    last = blocks.pop()  # behind the others, so that they stay when they are freed
    del blocks
    before = resident()
    timing.available_bytes()
    assert before - resident() > 2**25
    assert last.sum() == 2**12


def test_the_peak_of_matrix_products_is_a_pace():
    assert matrix_peak("fp32", CPU) > 1e8


# ---- the command ----


def test_the_summary_has_a_result_of_each_entrant_with_medians_within_the_rounds(cikd, tiny):
    words = ["--recipe", tiny, "--num-classes", 5, "--rounds", 3, "--train-images", 1000, "--source-size", 16]
    told = json.loads(cikd("bench", *words, "--json").stdout)
    assert told["matrix_peak_flops"] > 0
    assert (told["precision"], told["image_size"], told["lob"], told["student"]) == ("fp32", 32, 2, "custom")
    named = [(result["what"], result["entrant"]) for result in told["results"]]
    pair = ("reference", "tool")
    assert named == [
        *(("ali", name) for name in pair),
        *(("lm", name) for name in (*pair, "cached")),
        *((what, name) for what in ("relation-kl", "views ali", "views lm") for name in pair),
    ]
    for result in told["results"]:
        assert len(result["seconds"]) == 3
        assert min(result["seconds"]) <= result["median_seconds"] <= max(result["seconds"])
        assert result["median_seconds"] == statistics.median(result["seconds"])
        assert result["images_per_second"] == pytest.approx(4 / result["median_seconds"])
        assert result["speedup"]["min"] <= result["speedup"]["median"] <= result["speedup"]["max"]
        assert ("flops_per_image" in result) == (not result["what"].startswith("views"))
        if "flops_per_image" in result:
            assert result["memory_source"] == "counted"
            assert result["memory_bytes"] > 0
            assert result["peak_share"] == pytest.approx(result["flops_per_second"] / told["matrix_peak_flops"])
        if result["what"] in ("ali", "lm"):
            assert result["hours"] == pytest.approx(3 * 1000 / result["images_per_second"] / 3600)


def test_people_get_a_table_and_what_is_asked_for_only(cikd):
    words = ["--what", "ali", "--teacher-arch", "test_vit", "--student", "vit_pico", "--image-size", 32]
    shown = cikd("bench", *words, "--lob", 4, "--batch-size", 2, "--rounds", 1, "--precision", "fp32").output
    assert "teacher test_vit, student vit_pico, 32 px, LOB 4" in shown
    assert "ali, tool" in shown
    assert "lm, " not in shown
    assert "× reference" in shown
    assert "whole run: " not in shown  # nobody said how many images


def test_what_is_not_started_stands_in_table_and_picture(cikd, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_measure, "available_bytes", lambda: 0.0)
    sets = ["--set", "sweep_batches=2", "--set", "sweep_sizes=16", "--set", "sweep_lobs=3"]
    for words in ([], ["--sweep", *sets]):
        shown = cikd("bench", "--recipe", tiny, "--what", "ali", *words).output
        rows = [line for line in shown.splitlines() if "ali, tool" in line]
        assert rows
        assert all("no memory" in row and "MiB" in row for row in rows)
        assert shown.count("no memory: not started") == 1
    assert (tmp_path / "bench-sweep.png").stat().st_size > 1000


def test_a_sweep_goes_along_one_axis_at_a_time_and_draws_it(cikd, tiny, tmp_path):
    sets = ["--set", "sweep_batches=2,3", "--set", "sweep_sizes=16", "--set", "sweep_lobs=3"]
    words = ["--recipe", tiny, "--rounds", 1, "--what", "ali", *sets]
    told = json.loads(cikd("bench", "--sweep", *words, "--json").stdout)["sweep"]
    assert {axis: sorted({result["value"] for result in results}) for axis, results in told.items()} == {
        "batch_size": [2, 3],
        "image_size": [16],
        "lob": [3],
    }
    assert {(result["what"], result["entrant"]) for result in told["batch_size"]} == {
        ("ali", "reference"),
        ("ali", "tool"),
    }
    assert sorted(path.name for path in tmp_path.glob("bench-sweep.*")) == [
        f"bench-sweep.{kind}" for kind in ("json", "png", "svg")
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--what", "alley"], "what must be some of ali,lm,relation-kl,views, with commas between, not 'alley'"),
        (["--set", "sweep_lobs=1,x"], "sweep_lobs must be whole numbers from 1, with commas between, not '1,x'"),
        (["--sweep", "--what", "views"], "--sweep times steps, and --what views has none."),
        (["--lob", "13", "--teacher-arch", "test_vit"], "The learning objective block 13 is outside 1..6"),
        (["--teacher-arch", "vit_base_patch14_reg4_dinov2", "--image-size", "28"], "tokens beside the patches"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_a_sentence(words, sentence, cikd):
    assert sentence in cikd("bench", *words, code=2).stderr
