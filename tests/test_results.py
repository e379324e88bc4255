"""The files of eval, mad and cka: no result takes the place of another one, and each is found again by its name."""

import json
import re
import shutil
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cikd_cli.cli.app import app
from cikd_cli.console import Reporter
from cikd_cli.files import file_word
from cikd_cli.render import data_uri
from cikd_cli.settings.configs import MadConfig
from cikd_cli.stages.analysis import Analysis
from cikd_cli.stages.results import image_words, network_words, result_stem, save_result
from cikd_cli.stages.subjects import find_run, open_subject

EVAL = ("--set", "latency=false")
CKA = ("--images", "8", "--batch-size", "4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, photos, recipe):
    """runs/: teacher, other (a teacher too), lm and second, both of `teacher`."""
    with chdir(tmp_path_factory.mktemp("trained")):
        for words in (
            ("finetune-teacher", "--data", photos, "--name", "teacher"),
            ("finetune-teacher", "--data", photos, "--name", "other", "--seed", "1"),
            ("lm", "--teacher", "runs/teacher", "--name", "lm"),
            ("lm", "--teacher", "runs/teacher", "--name", "second", "--seed", "1"),
        ):
            words = (*words, "--recipe", recipe, "--epochs", "1", "--set", "warmup=0", "--quiet")
            outcome = CliRunner().invoke(app, [str(word) for word in words])
            assert outcome.exit_code == 0, outcome.output
        return Path("runs").resolve()


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """A copy of them in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "runs")
    return Path("runs")


def folder(path, *, colour=0):
    """A folder of the classes that the runs know: pictures of the same names and sizes in bytes, whatever colour."""
    for number, name in enumerate(("bars", "dots", "rows")):
        (path / name).mkdir(parents=True)
        for index in range(4):
            pixels = np.full((16, 16, 3), 40 * number + 10 * index + colour, np.uint8)
            Image.fromarray(pixels).save(path / name / f"{index}.bmp")
    return path


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


# ---- names ----


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


# ---- commands ----


def files():
    return {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}


def test_a_command_changes_no_result_but_its_own(cikd, runs):
    one, other = folder(Path("a/photos")), folder(Path("b/photos"), colour=5)
    for words, kind in (
        (("mad", "runs/lm", "--images", "4"), "mad"),
        (("mad", "runs/lm", "runs/second", "--images", "4"), "mad-lm-second-#"),
        (("cka", "runs/lm", *CKA), "cka"),
        (("cka", "runs/lm", "runs/second", *CKA), "cka-lm-second-#"),
        (("cka", "runs/lm", "--teacher", "runs/other", *CKA), "cka-lm-to-other-#"),
        (("eval", "runs/lm", *EVAL), "eval"),
        (("eval", "runs/lm", "--split", "train", *EVAL), "eval-train"),
        (("eval", "runs/lm", "--data", one, *EVAL), "eval-photos-#"),
        (("eval", "runs/lm", "--data", other, *EVAL), "eval-photos-#"),
        (("eval", "runs/lm", "--data", other, "--split", "train", *EVAL), "eval-photos-#-train"),
    ):
        before = files()
        said = json.loads(cikd(*words, "--json").stdout)
        made = files()
        assert {path: made[path] for path in before} == before
        assert {path for path in made.keys() - before.keys() if path.suffix != ".md"} == set(map(Path, said["files"]))
        assert re.fullmatch(kind.replace("#", "[0-9a-f]{8}") + ".json", Path(said["files"][0]).name)
        assert {Path(file).suffix for file in said["files"]} == {".json", ".png", ".svg"}


def test_a_copy_of_a_runs_data_is_its_own_only_while_it_is_whole(cikd, photos, runs):
    cikd("eval", "runs/lm", *EVAL)
    before = files()
    shutil.copytree(photos, "copy")
    assert json.loads(cikd("eval", "runs/lm", "--data", "copy", *EVAL, "--json").stdout)["files"][0] == (
        "runs/lm/analysis/eval.json"
    )
    own = files()
    assert own.keys() == before.keys()
    Path("copy/test/bars/0.png").unlink()
    said = json.loads(cikd("eval", "runs/lm", "--data", "copy", *EVAL, "--json").stdout)
    assert said["images"] == 11
    assert re.fullmatch(r"eval-copy-[0-9a-f]{8}\.json", Path(said["files"][0]).name)
    assert own.items() <= files().items()


def test_the_same_command_again_writes_the_same_files(cikd, runs):
    words = ("mad", "runs/lm", "runs/second", "--images", "4", "--json")
    first, before = cikd(*words).stdout, files()
    assert cikd(*words).stdout == first
    assert files() == before


def test_a_result_that_takes_the_place_of_one_measured_otherwise_says_so(cikd, runs):
    cikd("mad", "runs/lm", "--images", "4")
    assert "replaces" not in cikd("mad", "runs/lm", "--images", "4").output
    assert "runs/lm/analysis/mad.json replaces a result of images 4" in cikd("mad", "runs/lm", "--images", "6").output


@pytest.mark.parametrize("broken", [b"[1]", b"{", b"\xff", b"[" * 10**5, b"3" * 5000])
def test_a_result_that_cannot_be_read_is_replaced(tmp_path, broken):
    (tmp_path / "mad.json").write_bytes(broken)
    file = save_result(tmp_path / "mad", {"images": 4}, Reporter("silent"), how=["images"])
    assert json.loads(file.read_text()) == {"images": 4}


@pytest.mark.parametrize(("images", "batch", "used", "left"), [(12, 8, 12, 0), (10, 8, 8, 2), (12, 5, 10, 2)])
def test_cka_uses_a_last_batch_of_at_least_four_and_says_what_it_leaves_out(cikd, runs, images, batch, used, left):
    said = cikd("cka", "runs/lm", "--images", images, "--batch-size", batch).output
    assert (f"the {left} left over make no batch" in said) == bool(left)
    assert json.loads(Path("runs/lm/analysis/cka.json").read_text())["images"] == used


def test_cka_says_that_there_are_fewer_images_than_wanted(cikd, runs):
    assert "only 12 test images, not 1,024" in cikd("cka", "runs/lm").stderr


def test_cka_of_three_images_is_refused_with_what_to_do(cikd, runs):
    Path("few").mkdir()
    for index in range(3):
        Image.new("RGB", (16, 16), (80 * index, 0, 0)).save(f"few/{index}.png")
    said = cikd("cka", "runs/lm", "--data", "few", code=2).output
    assert "at least 4 images" in said
    assert "--data names a set or a folder with more" in said


def test_the_page_of_a_curriculum_shows_the_comparison_and_the_plain_name_is_the_students_own(cikd, photos, recipe):
    cikd("run", "--data", photos, "--recipe", recipe, "--set", "epochs=1", "--set", "warmup=0")
    (compared,) = Path("runs/lm-001/analysis").glob("mad*.png")
    assert re.fullmatch(r"mad-lm-001-teacher-001-[0-9a-f]{8}\.png", compared.name)
    page = Path("runs/lm-001/report.html").read_text()
    assert page.count("<figure>") == 4
    assert data_uri(compared) in page
