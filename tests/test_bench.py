"""`cikd bench`: what it prints, and what it refuses."""

import json
import statistics

import pytest
from bench_case import TINY

from cikd_cli.bench import measure as bench_measure

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
