"""A result of several networks has a name of its own, and the same one again."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import folder

from cikd_cli.console import Reporter
from cikd_cli.files import file_word
from cikd_cli.settings.analyses import MadConfig
from cikd_cli.stages.analysis import Analysis
from cikd_cli.stages.results import image_words, network_words, result_stem
from cikd_cli.stages.subjects import find_run, open_subject


def stem(*names, teacher=None, data=None):
    """Where cka (mad, without a teacher) of these networks on these images goes."""
    home = next(filter(None, map(find_run, names)), None)
    subjects, beside = [open_subject(name) for name in names], open_subject(teacher) if teacher else None
    analysis = Analysis(MadConfig(data=data and str(data)), Reporter("silent"), torch.device("cpu"), workers=0)
    images = analysis.open_images(home, most=4)
    found = result_stem("mad", home, [*network_words(subjects, home, teacher=beside), *image_words(images)])
    assert len(f".{found.name}.json.{2**22}.tmp".encode()) <= 255
    assert re.fullmatch(r"[\w.+-]+", found.name)
    return found


def all_differ(stems):
    return len(set(stems)) == len(stems)


def test_a_run_alone_or_beside_its_own_teacher_has_the_plain_name(runs):
    plain = Path("runs/lm/analysis/mad")
    assert stem("runs/lm") == plain
    assert stem("runs/lm", teacher="runs/teacher") == stem("runs/lm", teacher="./runs/../runs/teacher/") == plain


def test_networks_side_by_side_have_names_of_their_own_in_any_order_and_from_any_folder(runs):
    shutil.copytree("runs", "elsewhere/runs")
    found = [
        stem("runs/lm"),
        stem("runs/lm", "runs/second"),
        stem("runs/second", "runs/lm"),
        stem("runs/lm", "runs/teacher"),
        stem("runs/lm", "runs/second", "runs/teacher"),
        stem("runs/lm", "runs/teacher", "runs/second"),
        stem("runs/lm", "elsewhere/runs/second"),
        stem("runs/lm", "runs/lm"),
        stem("runs/lm", "runs/second/model.safetensors"),
        stem("runs/lm", teacher="runs/other"),
        stem("runs/lm", teacher="runs/second"),
        stem("runs/lm", teacher="runs/teacher/model.safetensors"),
        stem("runs/lm", "runs/second", teacher="runs/other"),
    ]
    assert all_differ(found)
    assert re.fullmatch("mad-lm-second-[0-9a-f]{8}", found[1].name)
    assert re.fullmatch("mad-lm-to-other-[0-9a-f]{8}", found[9].name)


def test_runs_that_were_moved_together_find_their_results_again(runs, tmp_path):
    before = stem("runs/lm", "runs/second")
    runs.rename("moved")
    assert stem("moved/second/../lm", str(tmp_path / "moved/second")).name == before.name


def test_words_that_join_to_the_same_words_are_told_apart(runs):
    for name in ("a", "b-c", "a-b", "c"):
        shutil.copytree("runs/second", f"runs/{name}")
    assert all_differ([stem("runs/lm", "runs/a", "runs/b-c"), stem("runs/lm", "runs/a-b", "runs/c")])


def test_a_run_that_was_trained_again_has_another_name_beside_others(runs):
    before = stem("runs/lm", "runs/second")
    shutil.rmtree("runs/second")
    shutil.copytree("runs/other", "runs/second")
    assert stem("runs/lm", "runs/second") != before


def test_folders_of_one_name_are_told_apart_by_content_and_found_again_where_they_moved_to(runs):
    one, other = folder(Path("a/photos")), folder(Path("b/photos"), colour=5)
    assert {path.stat().st_size for path in one.rglob("*.bmp")} == {
        path.stat().st_size for path in other.rglob("*.bmp")
    }
    found = [stem("runs/lm", data=data) for data in (one, other, "digits", None)]
    assert all_differ(found)
    assert re.fullmatch("mad-photos-[0-9a-f]{8}", found[0].name)
    Path("c").mkdir()
    one.rename("c/photos")
    assert stem("runs/lm", data="c/photos") == found[0]


def test_networks_that_are_no_runs_are_told_apart_in_the_working_directory(runs):
    for name in ("lm", "second"):
        Path(name).mkdir()
        shutil.copyfile(runs / name / "model.safetensors", Path(name, "vit.safetensors"))
    one, other = folder(Path("a/photos")), folder(Path("b/photos"), colour=5)
    found = [
        stem("lm/vit.safetensors", data=one),
        stem("lm/vit.safetensors", data=other),
        stem("second/vit.safetensors", data=one),
        stem("lm/vit.safetensors", "second/vit.safetensors", data=one),
        stem("lm/vit.safetensors", data=one, teacher="runs/teacher"),
        stem("lm/vit.safetensors", data=one, teacher="runs/other"),
    ]
    assert all_differ(found)
    assert re.fullmatch(r"mad-vit\.safetensors-16px-[0-9a-f]{8}-photos-[0-9a-f]{8}", str(found[0]))


def test_the_size_of_the_input_is_part_of_a_network_that_is_no_run(runs):
    subject = replace(open_subject("runs/lm"), run=None, name="deit", label="deit")
    larger = replace(subject, spec=replace(subject.spec, image_size=32))
    words = [network_words([one], None) for one in (subject, larger)]
    assert [one[0] for one in words] == ["deit-16px", "deit-32px"]
    assert words[0][1] != words[1][1]


@pytest.mark.parametrize("name", ["π " + "漢" * 60, "a'b\n\x1b[2J;$(rm -rf)", "-" + "x" * 200])
def test_names_of_runs_with_odd_names_are_valid_and_distinct(runs, name):
    odd, even, teacher = (f"runs/{name}{last}" for last in ("", "2", "3"))
    for path in (odd, even, teacher):
        shutil.copytree("runs/second", path)
    assert all_differ([
        stem("runs/lm"), stem("runs/lm", odd), stem("runs/lm", even), stem(odd, even), stem(even, odd), stem(odd),
        stem("runs/lm", teacher=odd), stem("runs/lm", odd, even, teacher), stem("runs/lm", odd, teacher=teacher),
    ])  # fmt: skip


def test_any_number_of_runs_makes_a_name_that_a_file_system_takes(runs):
    for number in range(20):
        shutil.copytree("runs/second", f"runs/student-number-{number}")
    many = [f"runs/student-number-{number}" for number in range(20)]
    data = folder(Path("漢" * 60))
    assert all_differ([stem("runs/lm", *many, data=data), stem("runs/lm", *many[:-1], "runs/second", data=data)])


@pytest.mark.parametrize("name", ["漢" * 100, "e\u0301" * 100, "\U0001f600" * 10, "a" * 300, "\udcff\udcfe"])
def test_a_word_of_a_files_name_takes_at_most_60_bytes(name):
    assert re.fullmatch(r"[\w.+-]+", file_word(name))
    assert len(file_word(name).encode()) <= 60
