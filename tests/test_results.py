"""The files of eval, mad and cka: no result takes the place of another one, and each is found again by its name."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny import folder

from cikd_cli.console import Reporter
from cikd_cli.render import data_uri
from cikd_cli.stages.results import save_result

EVAL = ("--set", "latency=false")
CKA = ("--images", "8", "--batch-size", "4")


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
