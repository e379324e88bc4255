"""Runs made without training."""

from pathlib import Path
from typing import Any

from cikd_cli.runs.ancestry import as_parent
from cikd_cli.runs.directory import RunDir

RESULT = {"epochs": 1, "seconds": 1.0, "images_per_second": 1.0, "loss": 1.0}
_DATA = {"name": "", "fingerprint": "", "split": "", "train": 0, "val": 0, "test": 0, "classes": 0}
_MODEL = {"builder": "scratch", "arguments": {}, "heads": [], "classes": [], "mean": [], "std": []}
_PLAIN = {"argv": [], "seed": 0, "versions": {}, "hardware": {"device": "CPU"}, "parents": []}


def whole(*, data: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    """A record with all that a run writes, of nothing."""
    return {**_PLAIN, "data": _DATA | (data or {}), "model": _MODEL | (model or {}), **extra}


def make(
    runs_dir: Path, stage="ali", *, prefix=None, name=None, parents=(), data="digits", done=True, **extra
) -> RunDir:
    entries = [as_parent(parent, runs_dir, "from_run") for parent in parents]
    record = whole(parents=entries, data={"name": data}, **extra)
    config = {"data": data, "lr": 1e-3, "mean": None, "betas": (0.9, 0.95)}
    prefix = prefix or {"finetune-teacher": "teacher"}.get(stage, stage)
    run = RunDir.create(runs_dir, stage, prefix=prefix, name=name, record=record, config=config)
    if done:
        run.weights.write_bytes(f"weights of {run.path.name}".encode())
        run.finish({**RESULT, "top1": 97.5})
    return run
