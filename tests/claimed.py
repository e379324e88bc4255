"""Runs made without training."""

from pathlib import Path

from cikd_cli.runs.directory import RunDir


def make(
    runs_dir: Path, stage="ali", *, prefix=None, name=None, parents=(), data="digits", done=True, **extra
) -> RunDir:
    record = {"parents": [parent.as_parent(runs_dir) for parent in parents], "data": {"name": data}, **extra}
    config = {"data": data, "lr": 1e-3, "mean": None, "betas": (0.9, 0.95)}
    prefix = prefix or {"finetune-teacher": "teacher"}.get(stage, stage)
    run = RunDir.create(runs_dir, stage, prefix=prefix, name=name, record=record, config=config)
    if done:
        run.weights.write_bytes(f"weights of {run.path.name}".encode())
        run.finish({"top1": 97.5})
    return run
