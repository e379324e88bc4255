"""From which runs a run comes: the entries that its record has of them, and the runs that these stand for."""

from pathlib import Path
from typing import Any

from cikd_cli.errors import CikdError
from cikd_cli.files import is_file
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.reading import read_record
from cikd_cli.runs.record import Parent
from cikd_cli.settings.stages import training_stages


def as_parent(run: RunDir, runs_dir: Path, knob: str) -> dict[str, Any]:
    """The entry for `record.parents` of a child in `runs_dir` whose knob names this run.

    It is by name if both lie in that folder, so that the folder can be moved.
    """
    path = run.path.resolve()
    inside = path.parent == Path(runs_dir).resolve()
    return {"stage": run.stage, "knob": knob, "path": path.name if inside else str(path), "sha256": run.sha256}


def entries(run: RunDir, giving: str) -> list[Parent]:
    """The entries of the recorded parents that give this."""
    return [entry for entry in run.record.parents if entry.stage in training_stages(giving)]


def open_entry(run: RunDir, entry: Parent) -> RunDir:
    """The parent of an entry; CikdError if it is gone, or its weights are not those this run used."""
    found = RunDir.open(run.resolve_parent(entry), stages=[entry.stage], whole=run.whole)
    if entry.sha256 not in (None, found.sha256):
        raise CikdError(f"{found.path} was made again after {run.path} used it", hint="cikd runs")
    return found


def parent(run: RunDir, giving: str) -> RunDir:
    """The nearest run that gives this among those it descends from, through any number of generations.

    Raises:
        CikdError: there is none, it is gone, or its weights are not those this run used.
    """
    for entry in entries(run, giving):
        return open_entry(run, entry)
    for entry in run.record.parents:
        ancestor = RunDir.open(run.resolve_parent(entry), whole=run.whole)
        if has_ancestor(ancestor, giving):
            return parent(ancestor, giving)
    wanted = " or ".join(training_stages(giving))
    raise CikdError(f"{run.path} does not descend from a run of {wanted}", hint="cikd runs shows the lineage")


def has_ancestor(run: RunDir, giving: str, younger: frozenset[Path] = frozenset()) -> bool:
    """Whether a run that gives this is among the recorded ancestors that are still there; younger: come from them.

    Raises:
        CikdError: the run descends from itself, by a hand-edited record.
    """
    here = run.path.resolve()
    if here in younger:
        raise CikdError(f"{run.path} descends from itself", hint="cikd runs")
    if entries(run, giving):
        return True
    for entry in run.record.parents:
        path = run.resolve_parent(entry)
        if is_file(path / "run.json") and has_ancestor(RunDir(path, read_record(path)), giving, younger | {here}):
            return True
    return False
