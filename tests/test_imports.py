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
GROUND = {
    "errors",
    "batch_size",
    "config",
    "config_bench",
    "console",
    "elastic",
    "files",
    "locks",
    "numbering",
    "knobs",
    "options",
    "outlet",
    "progress",
    "records",
    "record_types",
    "runs",
    "lineage",
    "render",
    "recipes",
    "chain",
    "elsewhere",
    "inheritance",
    "panels",
    "patches",
    "slurm",
}
TOP = {"cli", "commands", "flags", "sentences", "unknown", "__main__"}
# What each part of the third floor may import of its own floor.
THIRD = {
    "data": set(),
    "kernels": set(),
    "models": set(),
    "methods": {"kernels", "models", "data"},
    "analysis": {"kernels", "models", "data", "methods"},
    "engine": {"methods", "kernels", "models", "data"},
    "bench": {"engine", "methods", "kernels", "models", "data"},
}
TORCH_FREE = [*sorted(GROUND | TOP), "stages/__init__", "cli/early", "data/__init__", "data/layout"]


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


def part(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def allowed(name: str) -> set[str]:
    if name in TOP:
        return {*GROUND, *TOP, "stages"}
    if name == "stages":
        return {*GROUND, *THIRD, "stages"}
    if name in THIRD:
        return {*GROUND, *THIRD[name], name}
    return GROUND


def test_every_file_belongs_to_a_floor():
    known = {*TOP, *GROUND, *THIRD, "stages", "__init__"}
    assert {part(path) for path in modules()} <= known


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_floors_below(path):
    for name in imported(path):
        if name.startswith("cikd_cli."):
            target = name.split(".")[1]
            if target != "__version__":
                assert target in allowed(part(path)), f"{part(path)} imports {name}"


@pytest.mark.parametrize("name", TORCH_FREE)
def test_the_ground_floor_and_the_command_line_name_no_heavy_package(name):
    heavy = [used for used in imported(PACKAGE / f"{name}.py") if used.split(".")[0] in HEAVY]
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
