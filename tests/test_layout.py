"""How image folders are laid out: what is a split, what a class, and what is nearly one of ours."""

import unicodedata
from pathlib import Path

import pytest

from cikd_cli.data.layout import read_layout
from cikd_cli.errors import CikdError


def lay_out(root: Path, *names: str) -> Path:
    """A folder `photos` with these folders, and empty files where a name ends in .png."""
    folder = root / "photos"
    folder.mkdir()
    for name in names:
        path = folder / name
        (path.parent if name.endswith(".png") else path).mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            path.touch()
    return folder


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("test", ["test", "Testing", "EVAL"])
@pytest.mark.parametrize("val", ["val", "Valid", "VALIDATION", "dev"])
def test_splits_are_known_by_their_names_in_any_case(tmp_path: Path, train: str, test: str, val: str) -> None:
    parts = [f"{split}/{name}" for split in (train, test, val) for name in ("red", "green")]
    layout = read_layout(lay_out(tmp_path, *parts))
    assert layout.classes == ("green", "red")
    assert {split: root.name for split, root in layout.roots.items()} == {"train": train, "test": test, "val": val}
    assert layout.parted


def test_a_folder_of_classes_is_its_own_train(tmp_path: Path) -> None:
    layout = read_layout(lay_out(tmp_path, "red/1.png", "green/1.png", "train/1.png"))
    assert layout.classes == ("green", "red", "train")  # train holds images here: it is a class
    assert not layout.parted


@pytest.mark.parametrize(
    ("names", "said", "hint"),
    [
        (["red/train", "red/test", "green/train", "green/test"], "splits below a class", "put the split first"),
        (["training_set/a", "training_set/b", "test_set/a"], "under other names", "training_set to train"),
        (["train2017/a", "val2017/a"], "under other names", "val2017 to val"),
        (["train/a", "train/b", "tests/a", "tests/b"], "no name that is read", "photos/test"),
        (["train/a", "train/b", "hold/a", "hold/b"], "no name that is read", "photos/test"),
        (["train/1.png", "test/1.png"], "but no class folders", "DIR/train/<class>"),
        (["test/a", "test/b", "val/a"], "has no train folder", "to train"),
        (["test/a", "test/b"], "nothing to train on", "photos/train"),
        (["train/a", "Train/a"], "two folders for the train split", "join them"),
        (["inner/train/a", "inner/train/b"], "one class only, inner", "--data"),
        (["inner/a", "inner/b"], "one class only, inner", "--data"),
        (["train/a", "train/b", "test/a"], "Class b is in", "add test images"),
        (["train/a", "train/b", "test/a", "test/b", "test/c"], "Class c is in", "add training images"),
        ([], "no class folders", "DIR/<class>"),
    ],
)
def test_what_is_nearly_a_layout_is_refused_with_what_to_do(
    tmp_path: Path, names: list[str], said: str, hint: str
) -> None:
    with pytest.raises(CikdError, match=said) as caught:
        read_layout(lay_out(tmp_path, *names))
    assert hint in str(caught.value.hint)


def test_a_folder_that_is_not_read_is_known(tmp_path: Path) -> None:
    layout = read_layout(lay_out(tmp_path, "train/a", "train/b", "test/1.png", "notes"))
    assert {path.name for path in layout.unread} == {"test", "notes"}
    assert "test" not in layout.parts  # it holds no class folders


def test_names_in_two_unicode_forms_are_one_class(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    layout = read_layout(lay_out(tmp_path, *forms, "the"))
    assert layout.classes == ("café", "the")
    assert len(layout.parts["train"]["café"]) == 2


def test_what_archives_and_network_disks_leave_beside_is_no_class(tmp_path: Path) -> None:
    assert read_layout(lay_out(tmp_path, "a", "b", "__MACOSX/a", "@eaDir", ".git")).classes == ("a", "b")
