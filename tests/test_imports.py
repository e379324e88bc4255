"""The floors: who may import whom, and what help never loads."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cikd_cli
from cikd_cli.settings.stages import STAGES

PACKAGE = Path(cikd_cli.__file__).parent
HEAVY = ("torch", "torchvision", "timm", "sklearn", "matplotlib", "numpy", "scipy")
LOOSE = {"__init__", "__main__", "console", "errors", "files", "outlet", "progress", "render", "system", "text"}
GROUND = LOOSE - {"__init__", "__main__"}
ON_DISK = {*GROUND, "settings", "runs"}
NETWORKS = {*GROUND, "settings", "data", "kernels", "models"}
# What each folder may import beside itself.
FLOORS: dict[str, set[str]] = {
    "settings": GROUND,
    "runs": {*GROUND, "settings"},
    "processes": ON_DISK,
    "data": {*GROUND, "settings"},
    "kernels": GROUND,
    "models": {*GROUND, "settings"},
    "methods": NETWORKS,
    "engine": {*ON_DISK, *NETWORKS, "methods", "processes"},
    "analysis": {*NETWORKS, "engine"},
    "reports": {*ON_DISK, "analysis"},
    "training": {*ON_DISK, *NETWORKS, "methods", "processes", "engine", "analysis"},
    "stages": {*ON_DISK, *NETWORKS, "processes", "engine", "analysis", "reports", "training"},
    "bench": {*ON_DISK, *NETWORKS, "methods", "processes", "engine", "analysis", "reports", "training"},
    "cli": {*ON_DISK, "processes", "data"},
}
TORCH_FREE = sorted(
    {*(f"{name}.py" for name in LOOSE), "processes/environment.py", "data/layout.py", "bench/config.py"}
    | {
        str(path.relative_to(PACKAGE))
        for folder in ("settings", "runs", "cli")
        for path in (PACKAGE / folder).glob("*.py")
    }
    | {str(path.relative_to(PACKAGE)) for path in PACKAGE.glob("*/__init__.py")}
    - {"models/__init__.py", "methods/__init__.py"}
)
BELOW_CLI = {"processes": {"environment"}, "data": {"layout"}}  # the modules of other folders that need no torch


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module a file names in an import, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            if node.module == "cikd_cli":
                yield from (f"cikd_cli.{alias.name}" for alias in node.names)


def folder(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else ""


def test_every_file_belongs_to_a_folder_or_is_one_of_few_that_lie_loose():
    assert {folder(path) for path in modules()} - {""} == set(FLOORS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE
    assert len(LOOSE) <= 10


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_floors_below(path):
    own = folder(path)
    allowed = {*FLOORS[own], own} if own else {*GROUND, *(["cli"] if path.stem == "__main__" else [])}
    for name in imported(path):
        if name.startswith("cikd_cli.") and name != "cikd_cli.__version__":
            target, _, module = name.removeprefix("cikd_cli.").partition(".")
            assert target in allowed, f"{own} imports {name}"
            if own == "cli" and target in BELOW_CLI and module:
                assert module in BELOW_CLI[target], f"the command line imports {name}"


@pytest.mark.parametrize("name", TORCH_FREE)
def test_the_ground_floor_and_the_command_line_name_no_heavy_package(name):
    heavy = [used for used in imported(PACKAGE / name) if used.split(".")[0] in HEAVY]
    assert heavy == []


def test_importing_the_command_line_loads_no_heavy_package():
    script = f"import sys, cikd_cli.cli.app; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_stage_loads_matplotlib_before_it_draws():
    modules = sorted({stage.module for stage in STAGES.values()})
    script = f"import sys, importlib; [importlib.import_module(name) for name in {modules!r}];"
    script += "print([name for name in sys.modules if name.partition('.')[0] == 'matplotlib'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


HELP = [[], *([name] for name in STAGES), ["runs"], ["config"], *(["config", name] for name in STAGES)]
HELP += [["ali", "--help-all"], ["slurm"], ["slurm", "ali"], ["slurm", "run"]]


@pytest.mark.parametrize("words", HELP, ids=lambda words: "-".join(words) or "cikd")
def test_help_answers_where_torch_cannot_be_imported(words):
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r})); sys.argv = ['cikd', *{words!r}, '--help'];"
        "from cikd_cli.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: cikd " + " ".join(word for word in words if word[0] != "-") in done.stdout


@pytest.mark.parametrize("words", [[], ["config"], ["slurm"]], ids=lambda words: "-".join(words) or "cikd")
def test_a_list_of_commands_does_not_wait_for_knobs_or_panels(words):
    slow = ("cikd_cli.settings.configs", "rich", "jinja2")
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({slow!r})); sys.argv = ['cikd', *{words!r}, '--help'];"
        "from cikd_cli.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "finetune-teacher" in done.stdout
