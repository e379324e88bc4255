"""Which run comes of which, and the tree of them."""

from pathlib import Path

import pytest
from claimed import RESULT, make

from cikd_cli.errors import CikdError
from cikd_cli.runs import lineage
from cikd_cli.runs.ancestry import as_parent, parent
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.lineage import all_runs, newest_run


def curriculum(runs_dir: Path) -> tuple[RunDir, RunDir, RunDir]:
    teacher = make(runs_dir, "finetune-teacher")
    ali = make(runs_dir, parents=[teacher])
    return teacher, ali, make(runs_dir, "lm", parents=[teacher, ali])


def test_the_teacher_is_found_through_the_generations_after_the_folder_moved(tmp_path):
    teacher, ali, _ = curriculum(tmp_path / "runs")
    grandchild = make(tmp_path / "runs", "lm", parents=[ali])
    (tmp_path / "runs").rename(tmp_path / "moved")
    found = parent(RunDir.open(tmp_path / "moved" / grandchild.path.name), "teacher")
    assert found.path == tmp_path / "moved" / teacher.path.name


def test_a_parent_in_another_folder_is_remembered_by_its_whole_path(tmp_path):
    teacher = make(tmp_path / "elsewhere", "finetune-teacher")
    child = make(tmp_path / "runs", parents=[teacher])
    assert parent(child, "teacher").path == teacher.path


def test_a_teacher_made_again_under_the_same_name_is_not_taken_for_the_old_one(tmp_path):
    teacher = make(tmp_path, "finetune-teacher", name="t")
    child = make(tmp_path, parents=[teacher])
    teacher.weights.write_bytes(b"other weights")
    teacher.finish(RESULT)
    with pytest.raises(CikdError, match="was made again"):
        parent(child, "teacher")


def test_the_newest_finished_teacher_of_the_data_set_is_found(tmp_path):
    make(tmp_path, "finetune-teacher")
    newest = make(tmp_path, "finetune-teacher")
    make(tmp_path, "finetune-teacher", data="mnist")
    make(tmp_path, "finetune-teacher", done=False)
    assert newest_run(tmp_path, "teacher", data="digits").path == newest.path
    assert newest_run(tmp_path, "teacher", data="pets") is None


def test_the_tree_puts_a_run_under_its_closest_ancestor(tmp_path):
    teacher, ali, lm = curriculum(tmp_path)
    alone = make(tmp_path, "lm")
    shown = [(depth, run.path) for depth, run in lineage.tree(all_runs(tmp_path))]
    assert shown == [(0, teacher.path), (1, ali.path), (2, lm.path), (0, alone.path)]


def test_the_tree_shows_status_epochs_and_score(tmp_path):
    run = make(tmp_path, progress={"epoch": 3, "epochs": 60})
    cells = dict(zip(lineage.COLUMNS, lineage.rows(all_runs(tmp_path))[0], strict=True))
    assert cells["run"] == str(run.path)
    assert (cells["status"], cells["epochs"], cells["top-1"]) == ("done", "3/60", "97.5")


def test_runs_that_come_from_each_other_are_listed_all_the_same(tmp_path):
    run = make(tmp_path)
    run.update(parents=[as_parent(run, tmp_path, "from_run")])
    assert [shown.path for _, shown in lineage.tree(all_runs(tmp_path))] == [run.path]


def test_a_finished_run_without_the_hash_of_its_weights_is_damaged(tmp_path):
    run = make(tmp_path)
    run.update(weights=None)
    with pytest.raises(CikdError, match="has no hash of the weights"):
        RunDir.open(run.path)
