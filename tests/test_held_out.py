"""What is held out of a folder is a matter of content alone, part of a run, and stays so for its descendants."""

import shutil

import numpy as np
import pytest
from noise import draw, held, load, memory_of

from cikd_cli.data import content
from cikd_cli.data.division import TEST, TRAIN, UNUSED, VAL
from cikd_cli.errors import CikdError

# ---- the law of the split ----


def test_a_renamed_and_moved_folder_is_divided_as_before(tmp_path):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    before = load(folder)
    for number, path in enumerate(sorted(folder.glob("*/*.png"))):
        path.rename(path.with_name(f"renamed-{97 * number % 41:03d}-{number}.png"))
    after = load(folder.rename(tmp_path / "moved"))
    assert held(after) == held(before)
    assert len(held(before)) == 8


def test_images_that_come_hardly_move_others(tmp_path):
    folder = draw(tmp_path / "set", {"a": 50, "b": 50})
    before = load(folder)
    draw(folder, {"a": 5}, seed=1, first=100)
    draw(folder, {"c": 8}, seed=2)
    assert len(held(before) - held(load(folder))) <= 1


def test_another_seed_holds_out_another_fifth_of_every_class(tmp_path):
    folder = draw(tmp_path / "set", {"a": 20, "b": 40})
    one, other = load(folder), load(folder, split_seed=1)
    assert held(one) != held(other)
    assert np.bincount(one.test.labels).tolist() == np.bincount(other.test.labels).tolist() == [4, 8]


def test_exact_copies_lie_on_one_side_under_another_class_too_and_are_named(tmp_path):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    for path in sorted((folder / "a").glob("*.png")):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    shutil.copy(folder / "a/003.png", folder / "b/same.png")
    source = load(folder)
    assert not held(source) & held(source, TRAIN)
    assert len(held(source)) == 8  # a fifth of 40 images, each counted once
    facts = dict(source.facts)
    assert "20 exact copies" in facts["copies"]
    assert "a/copy-000.png = a/000.png" in facts["copies"]
    assert "1 exact copy lies under another class as well: b/same.png = a/003.png" in facts["warning"]


def test_a_class_of_one_image_many_times_is_divided_and_said(tmp_path):
    folder = draw(tmp_path / "set", {"a": 5, "b": 1})
    for number in range(5):
        shutil.copy(folder / "b/000.png", folder / f"b/{number + 1}.png")
    source = load(folder)
    assert np.bincount(source.test.labels).tolist() == [1, 1]
    assert np.bincount(source.train.labels).tolist() == [4, 5]
    assert ("warning", "one image many times is all there is of b, so that a score on it says nothing") in source.facts


def test_copies_in_the_users_own_train_and_test_are_said(tmp_path):
    draw(tmp_path / "train", {"a": 5, "b": 5})
    draw(tmp_path / "test", {"a": 2, "b": 2}, seed=1)
    shutil.copy(tmp_path / "train/a/000.png", tmp_path / "test/a/009.png")
    facts = dict(load(tmp_path).facts)
    assert "1 exact copy lies in two splits" in facts["warning"]
    assert "train/a/000.png = test/a/009.png" in facts["warning"]


def test_of_very_many_files_names_and_sizes_stand_for_content_and_that_is_said(tmp_path, monkeypatch):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    by_content = load(folder)
    monkeypatch.setattr(content, "MOST", 10)
    by_name = load(folder)
    assert "by name and size" in by_name.split
    assert "by name and size" in dict(by_name.facts)["told apart"]
    assert "by name" not in by_content.split
    assert (len(by_name.test), len(by_name.train)) == (8, 32)
    assert held(load(folder.rename(tmp_path / "moved"))) == held(by_name)


def test_a_smaller_fraction_lies_inside_a_larger_one_when_images_come(tmp_path):
    folder = draw(tmp_path / "set", {"a": 40, "b": 40})
    tenth, half = load(folder, fraction=0.1), load(folder, fraction=0.5)
    assert held(tenth, TRAIN) < held(half, TRAIN)
    assert held(tenth) == held(half)
    assert len(held(tenth, UNUSED)) == len(tenth.unused) == 64 - len(tenth.train)


# ---- what runs before did ----


def test_a_grown_folder_keeps_what_was_held_out_and_divides_only_what_is_new(tmp_path):
    folder = draw(tmp_path / "set", {"a": 30, "b": 30})
    before = load(folder, val=0.2)
    draw(folder, {"a": 20, "b": 20}, seed=1, first=100)
    draw(folder, {"c": 10}, seed=2)
    after = load(folder, val=0.2, memory=memory_of(before))
    for side in (TEST, VAL, TRAIN):
        assert held(before, side) <= held(after, side)
    new = len(after.test) - len(before.test), len(after.val) - len(before.val), len(after.train) - len(before.train)
    assert new == (10, 8, 32)  # of 50
    assert "50 images are new (32 train, 8 val, 10 test)" in dict(after.facts)["changed"]


def test_images_that_are_gone_are_said(tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    before = load(folder)
    (folder / "a/000.png").unlink()
    (folder / "b/003.png").unlink()
    after = load(folder, memory=memory_of(before))
    assert "2 images are gone" in dict(after.facts)["changed"]
    assert held(after) <= held(before)


def test_an_unchanged_folder_says_nothing_of_changes(tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    assert load(folder, memory=memory_of(load(folder))).facts == ()


def test_unlabelled_images_leave_out_what_a_run_before_holds_out(tmp_path):
    photos = draw(tmp_path / "photos", {"a": 10, "b": 10})
    before = load(photos)
    pile = tmp_path / "pile"
    pile.mkdir()
    for number, path in enumerate(sorted(photos.glob("*/*.png"))):
        shutil.copy(path, pile / f"{number}.png")
    draw(pile, {"more": 5}, seed=3)
    after = load(pile, labelled=False, memory=memory_of(before))
    assert not held(before) & held(after, TRAIN)
    assert len(after.train) == 16 + 5


def test_a_test_folder_with_images_that_a_run_before_learned_from_is_refused_with_their_number(tmp_path):
    folder = draw(tmp_path / "set", {"a": 10, "b": 10})
    before = load(folder)
    parted = tmp_path / "parted"
    for name in ("a", "b"):
        (parted / "test" / name).mkdir(parents=True)
    shutil.copytree(folder, parted / "train")
    learned = list(before.train.items)[:3]
    for path in learned:
        (parted / "train" / path.parent.name / path.name).rename(parted / "test" / path.parent.name / path.name)
    draw(parted / "test", {"a": 2, "b": 2}, seed=5, first=50)
    with pytest.raises(CikdError, match="3 of the 7 test images are among those that runs/t learned from"):
        load(parted, memory=memory_of(before))


def test_a_test_image_that_the_user_moves_into_train_may_be_trained_on(tmp_path):
    draw(tmp_path / "train", {"a": 5, "b": 5})
    draw(tmp_path / "test", {"a": 4, "b": 4}, seed=1)
    before = load(tmp_path)
    (tmp_path / "test/a/000.png").rename(tmp_path / "train/a/100.png")
    after = load(tmp_path, memory=memory_of(before))
    assert (len(after.train), len(after.test)) == (11, 7)


def test_a_folder_that_grows_beyond_what_is_read_whole_is_still_known_by_content(tmp_path, monkeypatch):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    before = load(folder)
    draw(folder, {"a": 10, "b": 10}, seed=1, first=100)
    monkeypatch.setattr(content, "MOST", 45)
    after = load(folder, memory=memory_of(before))
    assert held(before) < held(after)
    assert not held(after) & held(before, TRAIN)


def test_a_folder_that_was_known_by_name_stays_so_when_it_shrinks(tmp_path, monkeypatch):
    folder = draw(tmp_path / "set", {"a": 20, "b": 20})
    monkeypatch.setattr(content, "MOST", 10)
    before = load(folder)
    monkeypatch.setattr(content, "MOST", 1000)
    assert held(load(folder, memory=memory_of(before))) == held(before)
