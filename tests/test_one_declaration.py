"""A knob's facts stand on the knob and a stage's in the table of stages: no list of their names is anywhere else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cikd_cli
from cikd_cli.settings.request import RunOptions
from cikd_cli.settings.stages import STAGES

PACKAGE = Path(cikd_cli.__file__).parent
# Where stages and knobs are declared; what bench can time; and the words of other programs.
DECLARED = (
    "settings/stages.py",
    "settings/configs.py",
    "settings/methods.py",
    "settings/request.py",
    "bench/config.py",
)
TRANSLATED = ("cli/elsewhere.py",)
KNOBS = {name for stage in STAGES.values() for name in stage.config.model_fields} | set(RunOptions.model_fields)
# Terms of a loss, and keys of a result on disk, that are called as knobs are.
OTHER = (["qk", "vv"], ["images", "split"], ["images", "batch_size", "split"], ["images", "precision"])
FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if str(path.relative_to(PACKAGE)) not in (*DECLARED, *TRANSLATED) and path.parent.name != "bench"
]


def words(node: ast.AST) -> list[str]:
    """The strings of a literal of nothing but strings."""
    parts = getattr(node, "elts", [node])
    values = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return values if len(values) == len(parts) else []


def compared(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                yield from words(side)


def listed(tree: ast.AST) -> Iterator[list[str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple | ast.Set) and len(words(node)) > 1:
            yield words(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_stage_is_told_by_its_name_and_no_names_are_listed(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [word for word in compared(tree) if word in STAGES and word != "run"] == []
    assert [found for found in listed(tree) if set(found) <= set(STAGES)] == []
    assert [found for found in listed(tree) if set(found) <= KNOBS and found not in OTHER] == []


def test_the_walk_sees_what_it_is_for():
    tree = ast.parse('if stage == "ali" or stage in ("lm", "eval"): keys = ["epochs", "batch_size"]')
    assert list(compared(tree)) == ["ali", "lm", "eval"]
    assert ["epochs", "batch_size"] in list(listed(tree))
