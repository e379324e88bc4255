"""What the three training stages share: resolve, check, claim a run, train on one or many processes, finish."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cikd_cli.chain import check_resume
from cikd_cli.config import StageConfig, TrainingConfig
from cikd_cli.console import Reporter, reporter
from cikd_cli.engine.distributed import Hardware, World, choose_hardware, launch
from cikd_cli.engine.fit import Outcome, Training, fit, resume_command
from cikd_cli.errors import EXIT_INTERRUPTED, CikdError
from cikd_cli.files import file_sha256, write_atomically
from cikd_cli.models.weights import encode_model
from cikd_cli.options import Request, RunOptions
from cikd_cli.recipes import recipe_names, resolve
from cikd_cli.runs import RunDir
from cikd_cli.stages import STAGES, header
from cikd_cli.stages.job import Job
from cikd_cli.stages.prepare import dry_run, prepare

Build = Callable[[Any, torch.device], Job]


@dataclass(frozen=True)
class Inherited:
    """Values a parent hands down (field -> value), the parent, and what to say about how it was found."""

    values: dict[str, Any]
    parent: RunDir | None
    note: str = ""


Inherit = Callable[[Request], Inherited]


def run(request: Request, config_class: type[TrainingConfig], *, inherit: Inherit, build: Build) -> dict[str, Any]:
    """Carry out a training command; the summary for --json. Raises CikdError (130) when stopped and saved."""
    options = request.options
    out = reporter(quiet=options.quiet, as_json=options.as_json)
    hardware = choose_hardware(options.gpus, options.processes or 1)
    if options.resume is not None:
        return _resume(request, config_class, out, hardware, build)
    inherited = inherit(request)
    resolved = resolve(
        config_class,
        request.stage,
        request.flags,
        options=_with_recipe_of(inherited.parent, options),
        inherited=inherited.values,
        inherited_from=str(inherited.parent.path) if inherited.parent else None,
    )
    config: TrainingConfig = resolved.config  # type: ignore[assignment]
    job = build(config, hardware.device)
    training = prepare(job, World(hardware.device, size=hardware.processes), options)
    header.show(out, job, training, hardware, resolved, note=inherited.note)
    if options.dry_run:
        return dry_run(job, training, hardware, out)
    run_dir = RunDir.create(
        Path(options.runs_dir),
        request.stage,
        prefix=STAGES[request.stage].prefix,
        name=options.name,
        record=header.record(request, job, hardware, resolved.recipe),
        config=_to_store(job),
    )
    out.attach_log(run_dir.path / "log.txt")
    out.fields([("run", f"{run_dir.path}  stop with Ctrl-C (saves); resume: {resume_command(run_dir)}"), ("", "")])
    return _train(run_dir, job, training, hardware, options, out)


def _train(
    run_dir: RunDir, job: Job, training: Training, hardware: Hardware, options: RunOptions, out: Reporter
) -> dict[str, Any]:
    """Train in this process, or let each launched process build its own job from the run; then report."""
    with run_dir.lock():
        try:
            if hardware.processes == 1:
                execute(run_dir, job, training, World(hardware.device), options, out)
            else:
                launch(_worker, hardware, run_dir.path, options)
        except BaseException as error:  # whatever it was, the run must not look as if it were still running
            run_dir = RunDir.open(run_dir.path, finished=False)
            stopped = isinstance(error, KeyboardInterrupt)
            run_dir.fail("interrupted" if stopped else "failed", str(error) or type(error).__name__)
            raise
    run_dir = RunDir.open(run_dir.path, finished=False)
    if run_dir.record["status"] == "interrupted":
        raise _interrupted(run_dir)
    return header.summarise(run_dir, out)


def _worker(world: World, path: Path, options: RunOptions) -> None:
    """One process of several: everything it needs is in the run directory."""
    from importlib import import_module

    run_dir = RunDir.open(path, finished=False)
    stage = STAGES[run_dir.record["stage"]]
    out = reporter(quiet=options.quiet or not world.first, as_json=options.as_json)
    job = import_module(stage.module).build(stored_config(run_dir, stage.config), world.device)
    training = prepare(job, world, options)
    if world.first:
        out.attach_log(run_dir.path / "log.txt")
    execute(run_dir, job, training, world, options, out)


def execute(run_dir: RunDir, job: Job, training: Training, world: World, options: RunOptions, out: Reporter) -> None:
    """Train on this process; the first one writes the deliverable and the result, or how far it came."""
    if job.source.val is not None:
        training.keep_best = lambda model: write_atomically(
            run_dir.path / "model-best.safetensors", encode_model(model, job.spec)
        )
    outcome = fit(training, run_dir, world, out, save_every=options.save_every)
    if not world.first:
        return
    if not outcome.finished:
        run_dir.fail("interrupted", f"stopped after epoch {outcome.epoch} of {job.config.epochs}")
        return
    write_atomically(run_dir.weights, encode_model(training.deliverable, job.spec))
    run_dir.finish(_result(run_dir, job, outcome), file_sha256(run_dir.weights))


def _result(run_dir: RunDir, job: Job, outcome: Outcome) -> dict[str, Any]:
    last = run_dir.metrics()[-1]
    result = {
        "epochs": outcome.epoch,
        "seconds": round(outcome.seconds, 1),
        "images_per_second": round(outcome.images_per_second, 1),
        "loss": last["loss"],
    }
    for name in ("val", "test"):
        if f"{name}_top1" in last:
            result |= {"split": name, "top1": last[f"{name}_top1"], "top5": last[f"{name}_top5"]}
    if job.source.val is not None:
        best = max(row.get("val_top1", -1.0) for row in run_dir.metrics())
        result["best_val_top1"] = best
    return result


def _to_store(job: Job) -> dict[str, Any]:
    """The config as config.toml keeps it: paths whole, so that another folder or a worker reads the same."""
    root = str(Path(job.config.data_root).expanduser().resolve())
    return job.config.model_copy(update={"data": job.source.name, "data_root": root}).model_dump(mode="json")


def stored_config(run_dir: RunDir, config_class: type[StageConfig]) -> Any:
    """A run's config, with its parents where they lie now."""
    values = run_dir.config()
    for parent in run_dir.record["parents"]:
        key = "teacher" if parent["stage"] == "finetune-teacher" else "from_run"
        values[key] = str(run_dir.parent(parent["stage"]).path)
    return config_class(**values)


def _resume(
    request: Request, config_class: type[TrainingConfig], out: Reporter, hardware: Hardware, build: Build
) -> dict[str, Any]:
    """Continue a run in place; only --epochs may change, and says so."""
    options = request.options
    check_resume(request, config_class)
    run_dir = RunDir.open(str(options.resume), stages=(request.stage,), finished=False)
    config = stored_config(run_dir, config_class)
    epochs = request.flags.get("epochs", config.epochs)
    if run_dir.record["status"] == "done" and epochs <= config.epochs:
        raise CikdError(
            f"{run_dir.path} is finished ({config.epochs} of {config.epochs} epochs).",
            hint=f"cikd {request.stage} --resume {run_dir.path} --epochs {2 * config.epochs} trains on",
        )
    if epochs != config.epochs:
        out.line(f"epochs {config.epochs} → {epochs}: from here on the learning rate follows the longer cosine")
        config = config.model_copy(update={"epochs": epochs})
    with run_dir.lock():
        run_dir.write_config(config.model_dump(mode="json"))
        run_dir.update(status="running")
    job = build(config, hardware.device)
    training = prepare(job, World(hardware.device, size=hardware.processes), options)
    recorded = run_dir.record["data"]["fingerprint"]
    if recorded != job.source.fingerprint:
        raise CikdError(
            f"The images of {config.data} have changed since {run_dir.path} began (fingerprints "
            f"{recorded[:8]}… and {job.source.fingerprint[:8]}…).",
            hint=f"cikd {request.stage} without --resume starts a new run",
        )
    out.attach_log(run_dir.path / "log.txt")
    done = run_dir.record.get("progress", {}).get("epoch", 0)
    out.fields([("resume", f"{run_dir.path} after epoch {done} of {config.epochs}"), *job.facts])
    return _train(run_dir, job, training, hardware, options, out)


def _with_recipe_of(parent: RunDir | None, options: RunOptions) -> RunOptions:
    """A stage follows its parent's recipe unless told otherwise; a recipe file has to be named again."""
    if parent is None or options.recipe or parent.record["recipe"] not in recipe_names():
        return options
    return options.model_copy(update={"recipe": parent.record["recipe"]})


def _interrupted(run_dir: RunDir) -> CikdError:
    """What a stopped and saved run says."""
    progress = run_dir.record.get("progress", {"epoch": 0, "epochs": "?"})
    return CikdError(
        f"{run_dir.path} stopped after epoch {progress['epoch']} of {progress['epochs']}, and is saved.",
        hint=f"continue it with  {resume_command(run_dir)}",
        exit_code=EXIT_INTERRUPTED,
    )
