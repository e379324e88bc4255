"""The lists of images that a run keeps, and what follows from them for its descendants."""

import json
import shutil
from pathlib import Path

from noise import draw

from cikd_cli.data.sources import load_source


def lines(run: str, name: str) -> list[str]:
    return Path(run, name).read_text().splitlines()


def test_a_run_says_which_images_it_kept_and_its_descendants_keep_them(cikd, recipe, tmp_path):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    cikd("finetune-teacher", "--data", folder, "--recipe", recipe, "--name", "t", "--quiet")
    kept = {line.split()[0] for line in lines("runs/t", "held-out.txt")}
    assert len(kept) == 8
    assert all(line.split()[1] == "test" for line in lines("runs/t", "held-out.txt"))
    assert len(lines("runs/t", "trained-on.txt")) == 32
    draw(folder, {"a": 15, "b": 15}, seed=4, first=100)
    said = cikd("ali", "--data", folder, "--recipe", recipe, "--name", "a").output
    assert "30 images are new" in said
    cikd("lm", "--from", "runs/a", "--recipe", recipe, "--name", "l", "--quiet")
    for run in ("runs/a", "runs/l"):
        after = {line.split()[0] for line in lines(run, "held-out.txt")}
        assert kept < after
        assert len(after) == 8 + 6
        assert not kept & {line.split()[0] for line in lines(run, "trained-on.txt")}
    first = json.loads(cikd("eval", "runs/t", "--no-latency", "--json").stdout)
    assert first["images"] == 8  # the teacher's own, though the folder has grown
    assert json.loads(cikd("eval", "runs/l", "--no-latency", "--json").stdout)["images"] == 14
    shutil.move(folder, tmp_path / "elsewhere")
    assert "--data DIR says where they lie now" in cikd("eval", "runs/t", code=2).output
    moved = json.loads(cikd("eval", "runs/t", "--data", "elsewhere", "--no-latency", "--json").stdout)
    assert (moved["images"], moved["top1"]) == (8, first["top1"])
    cikd("lm", "--from", "runs/a", "--data", "elsewhere", "--recipe", recipe, "--name", "m", "--quiet")
    assert lines("runs/m", "held-out.txt") == lines("runs/l", "held-out.txt")


def test_a_finished_curriculum_is_scored_on_what_it_held_out_when_the_folder_has_grown(cikd, recipe, tmp_path):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    words = ("run", "--data", folder, "--recipe", recipe, "--epochs", "1", "--set", "warmup=0", "--gpus", "cpu")
    first = json.loads(cikd(*words, "--json").stdout)
    draw(folder, {"a": 15, "b": 15}, seed=4, first=100)
    outcome = cikd(*words, "--json")
    assert "30 images are new" in outcome.stderr
    assert "--fresh trains anew" in outcome.stderr
    again = json.loads(outcome.stdout)
    assert again["lm"] == first["lm"]
    assert again["eval"]["images"] == first["eval"]["images"] == 8
    assert again["eval"]["top1"] == first["eval"]["top1"]


def test_the_weights_file_of_a_run_stands_for_the_run(cikd, recipe, tmp_path):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    words = ("finetune-teacher", "--data", folder, "--recipe", recipe, "--quiet")
    cikd(*words, "--name", "t")
    for name, typed in (
        ("f", ("--teacher", "runs/t/model.safetensors")),
        ("s", ("--set", "teacher=runs/t/model.safetensors")),
    ):
        cikd(*words, "--name", name, "--set", "split_seed=5", *typed)
        assert {line.split()[0] for line in lines(f"runs/{name}", "held-out.txt")} == {
            line.split()[0] for line in lines("runs/t", "held-out.txt")
        }


def test_what_one_parent_held_out_does_not_excuse_what_another_learned_from(cikd, recipe, tmp_path):
    flat = draw(tmp_path / "flat", {"a": 10, "b": 10})
    cikd("finetune-teacher", "--data", flat, "--recipe", recipe, "--name", "one", "--quiet")
    cikd("ali", "--teacher", "runs/one", "--recipe", recipe, "--name", "a", "--quiet")
    parted = tmp_path / "parted"
    shutil.copytree(flat, parted / "train")
    for path in sorted(parted.glob("train/*/00[0-4].png")):
        place = parted / "test" / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    cikd("finetune-teacher", "--data", parted, "--recipe", recipe, "--name", "two", "--quiet")
    said = cikd("ali", "--teacher", "runs/two", "--from", "runs/a", "--recipe", recipe, code=2).output
    assert "of the 10 test images are among those that" in said


def test_edited_lists_of_images_are_noticed(cikd, teacher):
    with Path(teacher, "held-out.txt").open("a") as file:
        file.write("0" * 32 + " test more.png\n")
    assert "held-out.txt was changed" in cikd("eval", teacher, code=2).output


def test_other_images_under_lm_are_refused(cikd, teacher, recipe, tmp_path):
    cikd("ali", "--teacher", teacher, "--recipe", recipe, "--name", "a", "--quiet")
    other = draw(tmp_path / "other", {"bars": 5, "dots": 5, "rows": 5}, seed=8)
    said = cikd("lm", "--from", "runs/a", "--data", other, "--recipe", recipe, code=2).output
    assert "runs/a was made for" in said


def test_a_teacher_of_other_images_in_the_same_place_is_refused(cikd, recipe, tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    cikd("finetune-teacher", "--data", folder, "--recipe", recipe, "--name", "t", "--quiet")
    shutil.rmtree(folder)
    draw(folder, {"a": 10, "b": 10}, seed=6)
    for words in (("ali", "--data", folder), ("lm", "--teacher", "runs/t")):
        assert "are not those the teacher" in cikd(*words, "--recipe", recipe, code=2).output


def test_a_named_set_has_no_lists(tmp_path):
    assert load_source("digits", data_root=tmp_path, download=False).digests == {}
