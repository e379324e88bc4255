"""All runs of a folder, and their tree: teachers, the runs that learned from them, with stage, status and score."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cikd_cli.errors import CikdError
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.reading import read_records
from cikd_cli.text import duration

COLUMNS = ("run", "stage", "data", "status", "epochs", "top-1", "time")


def all_runs(runs_dir: Path) -> list[RunDir]:
    """Every readable run in `runs_dir`, oldest first."""
    runs = [RunDir(path, record) for path, record in read_records(runs_dir) if not isinstance(record, CikdError)]
    return sorted(runs, key=lambda run: run.record.started)


def damaged_runs(runs_dir: Path) -> list[tuple[Path, CikdError]]:
    """The folders in `runs_dir` whose run.json cannot be read, and why."""
    return [(path, error) for path, error in read_records(runs_dir) if isinstance(error, CikdError)]


def newest_run(runs_dir: Path, giving: str, *, data: str) -> RunDir | None:
    """The run that gives this, on the data set `data`, that finished last, if any."""
    done = [
        run
        for run in all_runs(runs_dir)
        if run.gives(giving) and run.record.status == "done" and run.record.data.name == data
    ]
    return max(done, key=lambda run: (run.record.order, str(run.record.finished)), default=None)


def tree(runs: Sequence[RunDir]) -> list[tuple[int, RunDir]]:
    """(depth, run) in printing order; a run stands under the parent with the longest lineage (an lm under its ali)."""
    by_path = {run.path.resolve(): run for run in runs}
    children: dict[Path | None, list[RunDir]] = {}
    for run in runs:
        parents = [path for path in _parents(run) if path in by_path]
        nearest = max(parents, key=lambda path: _generations(by_path[path], by_path), default=None)
        children.setdefault(nearest, []).append(run)

    def walk(parent: Path | None, depth: int) -> Iterator[tuple[int, RunDir]]:
        for run in children.get(parent, []):
            yield depth, run
            yield from walk(run.path.resolve(), depth + 1)

    shown = list(walk(None, 0))
    there = {id(run) for _, run in shown}
    return shown + [(0, run) for run in runs if id(run) not in there]  # a circle, from hand-edited records


def rows(runs: Sequence[RunDir]) -> list[list[str]]:
    """The tree as table cells under COLUMNS."""
    return [
        [
            ("   " * (depth - 1) + "└─ " if depth else "") + str(run.path),
            run.stage,
            run.record.data.name,
            run.status,
            _epochs(run),
            _score(run),
            duration(run.record.seconds) if run.record.seconds else "",
        ]
        for depth, run in tree(runs)
    ]


def summary(runs: Sequence[RunDir]) -> list[dict[str, Any]]:
    """The tree for --json: one object a run."""
    return [
        {
            "run": str(run.path),
            "depth": depth,
            "stage": run.stage,
            "status": run.status,
            "data": run.record.data.name,
            "progress": run.record.progress and run.record.progress.model_dump(),
            "seconds": run.record.seconds,
            "parents": [str(run.resolve_parent(entry)) for entry in run.record.parents],
            "result": run.record.result and run.record.result.model_dump(exclude_none=True),
        }
        for depth, run in tree(runs)
    ]


def _parents(run: RunDir) -> list[Path]:
    return [run.resolve_parent(entry).resolve() for entry in run.record.parents]


def _generations(run: RunDir, by_path: dict[Path, RunDir], seen: frozenset[Path] = frozenset()) -> int:
    here = run.path.resolve()
    if here in seen:
        return 0  # a circle, from hand-edited records
    older = [by_path[path] for path in _parents(run) if path in by_path]
    return 1 + max((_generations(parent, by_path, seen | {here}) for parent in older), default=0)


def _epochs(run: RunDir) -> str:
    progress = run.record.progress
    return f"{progress.epoch}/{progress.epochs}" if progress and progress.epochs else ""


def _score(run: RunDir) -> str:
    top1 = run.record.result.top1 if run.record.result else None
    return f"{top1:.1f}" if top1 is not None else ""
