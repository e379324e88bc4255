"""What a training stage writes into run.json and prints at its start and end."""

import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cikd_cli import __version__, system
from cikd_cli.console import Reporter
from cikd_cli.engine.step import Training
from cikd_cli.processes.world import Hardware
from cikd_cli.runs.ancestry import as_parent
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.batch_size import fitting_batch, many_left_out
from cikd_cli.settings.knob import Role, knobs_with
from cikd_cli.settings.request import Request, Resolved
from cikd_cli.settings.stages import STAGES
from cikd_cli.text import duration
from cikd_cli.training.images import tell
from cikd_cli.training.job import Job


def record(request: Request, job: Job, training: Training, hardware: Hardware, recipe: str | None) -> dict[str, Any]:
    """The part of run.json that is known before training."""
    source = job.source
    return {
        "argv": list(request.argv),
        "versions": {"cikd": __version__, "python": platform.python_version(), **_package_versions()},
        "git_commit": _git_commit(),
        "hardware": {"device": str(hardware), "cpus": system.cores(), "machine": platform.machine()},
        "world_size": hardware.processes,
        "compiled": training.compiling,
        "seed": job.config.seed,
        "recipe": recipe,
        "parents": [as_parent(run, Path(request.options.runs_dir), knob) for knob, run in job.parents.items()],
        "data": {
            "name": source.name,
            "fingerprint": source.fingerprint,
            "split": source.split,
            "train": len(source.train),
            "val": len(source.val) if source.val else 0,
            "test": len(source.test) if source.test else 0,
            "classes": len(source.classes),
        },
        "model": job.spec.as_dict(),
        "curriculum": request.curriculum,
    }


def show(
    out: Reporter,
    jobs: Sequence[Job],
    training: Training,
    hardware: Hardware,
    resolved: Resolved,
    *,
    note: str,
    foretold: str | None = None,
) -> None:
    """Print who the parents are, what data, what differs from the recipe, what is to be done.

    What jobs that go together have in common is said once. note: on the teacher; foretold: how long it will take.
    """
    config = jobs[0].config
    told = knobs_with(type(config), Role.TOLD)
    changed = sorted(
        f"{key}={','.join(dict.fromkeys(str(getattr(job.config, key)) for job in jobs))}"
        for key, source in resolved.sources.items()
        if (source in ("flag", "--set") or source.startswith("config")) and key not in told
    )
    recipe = (
        f"{resolved.recipe or 'defaults'}: {config.epochs} epochs · {_batch(jobs[0], hardware, resolved)} · "
        f"lr {config.lr:g} cosine, warm-up {config.warmup:g} · seed {config.seed}"
    )
    hours = f" · {foretold} on {hardware}" if foretold else ""
    versions = f"{__version__} · torch {torch.__version__.split('+')[0]} · {hardware} · {training.precision}"
    tell(out, [
        ("cikd", versions),
        *((label, text + note if label == "teacher" else text) for label, text in _common_facts(jobs)),
        ("recipe", recipe),
        *_set_by_recipe(jobs[0], resolved),
        ("changed", ", ".join(changed) or "nothing"),
        ("plan", f"{training.steps:,} steps, {training.loader.steps_per_epoch} an epoch{_left_out(jobs[0])}{hours}"),
    ])  # fmt: skip
    _warn_of_left_out(jobs[0], hardware, out)
    if config.warmup >= config.epochs:
        out.warn(
            f"the warm-up of {config.warmup:g} epochs is as long as the run or longer: the learning rate never reaches "
            f"{config.lr:g}, and no cosine follows; --warmup {config.epochs / 10:g} is a tenth of the run"
        )


def _set_by_recipe(job: Job, resolved: Resolved) -> list[tuple[str, str]]:
    """What the recipe says and the line of its name does not."""
    told = knobs_with(type(job.config), Role.TOLD | Role.RECIPE)
    keys = [key for key, source in resolved.sources.items() if source.startswith("recipe ") and key not in told]
    listed = ", ".join(f"{key} {getattr(job.config, key)}" for key in keys)
    return [("", f"it sets {listed}")] if listed else []


def _batch(job: Job, hardware: Hardware, resolved: Resolved) -> str:
    """'batch 64', shared out among processes, lowered by the data."""
    batch, processes = job.config.batch_size, hardware.processes
    shares = f" = {processes} × {batch // processes}" if processes > 1 else ""
    lowered = "batch_size" in resolved.by_data and batch != resolved.config.model_dump()["batch_size"]
    return f"batch {batch}{shares}" + (f" by the data ({len(job.source.train):,} images)" if lowered else "")


def _left_out(job: Job) -> str:
    images = len(job.source.train)
    left = images % job.config.batch_size
    return f"; {left:,} of {images:,} images left out of each" if left else ""


def _warn_of_left_out(job: Job, hardware: Hardware, out: Reporter) -> None:
    batch, images = job.config.batch_size, len(job.source.train)
    if many_left_out(batch, images) and (better := fitting_batch(batch, images, hardware.processes)) != batch:
        out.warn(
            f"each epoch leaves {images % batch:,} of the {images:,} training images out (others each time), as "
            f"batches of {batch} do not fill it; --batch-size {better} leaves out {images % better:,}"
        )


def _common_facts(jobs: Sequence[Job]) -> list[tuple[str, str]]:
    """The facts of jobs that go together; where they differ, one line each."""
    facts = []
    for rows in zip(*(job.facts for job in jobs), strict=True):
        first, *others = dict.fromkeys(text for _, text in rows)
        facts += [(rows[0][0], first), *(("", text) for text in others)]
    if len(jobs) > 1:
        facts.append(("together", f"{len(jobs)} students; each batch is loaded, and seen by the teacher, once for all"))
    return facts


def peak_memory(hardware: Hardware) -> int:
    """Bytes: the GPU's peak, else the process's."""
    return torch.cuda.max_memory_allocated(hardware.device) if hardware.gpus else system.peak_memory()


def summarise(runs: Sequence[RunDir], out: Reporter) -> dict[str, Any]:
    """Print how finished runs went and what to type next; the summary for --json, of several {"runs": [...]}."""
    if len(runs) == 1:
        return _summarise_one(runs[0], out)
    result = runs[0].result
    out.line()
    out.line(f"{len(runs)} runs finished in {duration(result.seconds)}, {result.images_per_second:,.0f} images/s")
    rows = [[run.path.name, f"{run.result.loss:.4f}", _next(run)] for run in runs]
    out.table(["run", "loss", "next"], rows)
    return {"runs": [_summary(run) for run in runs]}


def _summarise_one(run: RunDir, out: Reporter) -> dict[str, Any]:
    result = run.result
    out.line()
    out.line(f"finished in {duration(result.seconds)}, {result.images_per_second:,.0f} images/s")
    if result.top1 is not None:
        cells = [f"{result.split} images", f"{result.top1:.1f}", f"{result.top5:.1f}", f"{result.loss:.3f}"]
        out.table(["", "top-1", "top-5", "loss"], [cells])
    else:
        out.line(f"loss {result.loss:.4f} in the last epoch")
    out.fields([("weights", str(run.weights)), ("next", _next(run))])
    return _summary(run)


def _summary(run: RunDir) -> dict[str, Any]:
    result = run.result.model_dump(exclude_none=True)
    numbers = {key: result[key] for key in ("epochs", "seconds", "images_per_second")}
    return {"run": str(run.path), "status": run.record.status, **numbers, "result": result}


def _next(run: RunDir) -> str:
    return STAGES[run.stage].next(run.path)


def _package_versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "torchvision", "timm", "numpy")}


def _git_commit() -> str | None:
    """The commit of the checkout this package runs from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
