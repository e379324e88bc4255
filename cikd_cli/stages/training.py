"""What the three training stages share: resolve, check, claim a run, train on one or many processes, finish."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cikd_cli import numbering
from cikd_cli.chain import check_resume, with_recipe_of
from cikd_cli.config import StageConfig, TrainingConfig
from cikd_cli.console import Reporter, reporter
from cikd_cli.data.sources import data_name
from cikd_cli.engine.distributed import Hardware, World, choose_hardware, launch
from cikd_cli.engine.fit import Outcome, Training, fit, resume_command
from cikd_cli.engine.precision import choose_precision
from cikd_cli.errors import EXIT_INTERRUPTED, CikdError
from cikd_cli.files import file_sha256, write_atomically
from cikd_cli.knobs import check_keys, validate
from cikd_cli.models.weights import encode_model
from cikd_cli.options import Request, RunOptions
from cikd_cli.recipes import resolve, typed_values
from cikd_cli.runs import RunDir, all_runs
from cikd_cli.stages import STAGES, header
from cikd_cli.stages.job import Job
from cikd_cli.stages.prepare import dry_run, prepare
from cikd_cli.stages.teacher_cache import cache_folder

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
    typed = replace(request, flags=typed_values(config_class, request.stage, request.flags, options))
    inherited = inherit(typed)
    resolved = resolve(
        config_class,
        request.stage,
        request.flags,
        options=with_recipe_of(inherited.parent, options),
        inherited=inherited.values,
        inherited_from=str(inherited.parent.path) if inherited.parent else None,
    )
    numbering.check_free(Path(options.runs_dir), options.name, stage=request.stage)
    job = build(_settle(resolved.config, hardware, Path(options.runs_dir)), hardware.device)
    training = prepare(job, World(hardware.device, size=hardware.processes), options)
    if job.examine is not None:
        job.examine(out)
    header.show(out, job, training, hardware, resolved, note=inherited.note)
    if options.dry_run:
        return dry_run(job, training, hardware, out)
    run_dir = RunDir.create(
        Path(options.runs_dir),
        request.stage,
        prefix=STAGES[request.stage].prefix,
        name=options.name,
        record=header.record(request, job, training, hardware, resolved.recipe),
        config=job.config.model_dump(mode="json"),
    )
    out.attach_log(run_dir.path / "log.txt")
    out.fields([("run", f"{run_dir.path}  stop with Ctrl-C (saves); resume: {resume_command(run_dir)}"), ("", "")])
    return _train(run_dir, job, training, hardware, options, out)


def _settle(config: Any, hardware: Hardware, runs_dir: Path) -> Any:
    """The config as a run keeps it: whole paths, so that another folder or a worker reads the same, and no `auto`."""
    paths = {"data_root": str(Path(config.data_root).expanduser().resolve())}
    if config.data is not None:
        paths["data"] = data_name(config.data)
    if config.teacher is not None and Path(config.teacher).exists():
        paths["teacher"] = str(Path(config.teacher).resolve())
    cache = cache_folder(config, runs_dir)
    if cache is not None:
        paths["teacher_cache"] = cache
    return config.model_copy(update={**paths, "precision": choose_precision(config.precision, hardware.device)})


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
            _end_badly(run_dir.path, error)
            out.note(f"error: {error}")
            raise
    run_dir = RunDir.open(run_dir.path, finished=False)
    if run_dir.record["status"] != "done":
        if run_dir.record["status"] == "running":  # its processes were told to stop before they had begun
            run_dir.fail("interrupted", "stopped before its first step")
        raise _interrupted(run_dir)
    return header.summarise(run_dir, out)


def _end_badly(path: Path, error: BaseException) -> None:
    stopped = isinstance(error, KeyboardInterrupt)
    message = "interrupted" if stopped else str(error) or type(error).__name__
    RunDir.open(path, finished=False).fail("interrupted" if stopped else "failed", message)


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
    if job.source.val is not None and job.scored and world.first:
        training.keep_best = lambda model: write_atomically(
            run_dir.path / "model-best.safetensors", encode_model(model, job.spec)
        )
    if job.teacher_cache is not None:
        training.flush, job.teacher_cache.warn = job.teacher_cache.flush, out.warn
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
    if job.source.val is not None and job.scored:
        result["best_val_top1"] = max(row.get("val_top1", -1.0) for row in run_dir.metrics())
    return result


def stored_config(run_dir: RunDir, config_class: type[StageConfig]) -> Any:
    """A run's config, with its parents where they lie now, compiled or not as it began."""
    values = {"compile": run_dir.record.get("compiled")} | run_dir.config()
    for parent in run_dir.record["parents"]:
        key = "teacher" if parent["stage"] == "finetune-teacher" else "from_run"
        values[key] = str(run_dir.parent(parent["stage"]).path)
    check_keys(config_class, values, str(run_dir.path / "config.toml"), command=run_dir.stage)
    return validate(config_class, values, command=run_dir.stage)


def _resume(
    request: Request, config_class: type[TrainingConfig], out: Reporter, hardware: Hardware, build: Build
) -> dict[str, Any]:
    """Continue a run in place; only --epochs may change, and says so."""
    options = request.options
    check_resume(request, config_class)
    run_dir = RunDir.open(str(options.resume), stages=(request.stage,), finished=False)
    config = stored_config(run_dir, config_class)
    epochs = request.flags.get("epochs", config.epochs)
    _check_epochs(run_dir, config.epochs, epochs)
    job = build(config.model_copy(update={"epochs": epochs}), hardware.device)
    training = prepare(job, World(hardware.device, size=hardware.processes), options)
    recorded = run_dir.record["data"]["fingerprint"]
    if recorded != job.source.fingerprint:
        raise CikdError(
            f"The images of {config.data} have changed since {run_dir.path} began (fingerprints "
            f"{recorded[:8]}… and {job.source.fingerprint[:8]}…).",
            hint=f"cikd {request.stage} without --resume starts a new run",
        )
    if epochs != config.epochs:
        out.line(f"epochs {config.epochs} → {epochs}: from here on the learning rate follows the longer cosine")
    done = (run_dir.record.get("progress") or {}).get("epoch", 0)
    out.fields([("resume", f"{run_dir.path} after epoch {done} of {epochs}"), *job.facts])
    if options.dry_run:
        return dry_run(job, training, hardware, out)
    with run_dir.lock():
        if epochs != config.epochs:
            run_dir.write_config(run_dir.config() | {"epochs": epochs})
        run_dir.update(status="running", weights=None, result=None)
    out.attach_log(run_dir.path / "log.txt")
    return _train(run_dir, job, training, hardware, options, out)


def _check_epochs(run_dir: RunDir, before: int, epochs: int) -> None:
    """Refuse a resume that has nothing to do, that would go back, or that would change what other runs stand on."""
    command = f"cikd {run_dir.stage} --resume {run_dir.path}"
    if epochs < before:
        raise CikdError(f"{run_dir.path} was begun for {before} epochs; {epochs} are fewer.", hint=command)
    if run_dir.record["status"] != "done":
        return
    if epochs == before:
        raise CikdError(
            f"{run_dir.path} is finished ({before} of {before} epochs).", hint=f"{command} --epochs N trains on"
        )
    for child in all_runs(run_dir.path.parent):
        parents = [child.resolve_parent(entry).resolve() for entry in child.record.get("parents", [])]
        if run_dir.path.resolve() in parents:
            raise CikdError(
                f"{child.path} was made from {run_dir.path}, which therefore has to stay as it is.",
                hint=f"start a new run with --epochs {epochs}",
            )


def _interrupted(run_dir: RunDir) -> CikdError:
    """What a stopped and saved run says."""
    if not any(run_dir.checkpoints.glob("*.safetensors")):
        return CikdError(
            f"{run_dir.path} stopped before anything could be saved.",
            hint=f"begin it again with  {resume_command(run_dir)}",
            exit_code=EXIT_INTERRUPTED,
        )
    progress = run_dir.record.get("progress") or {"epoch": 0, "epochs": run_dir.config()["epochs"]}
    return CikdError(
        f"{run_dir.path} stopped after epoch {progress['epoch']} of {progress['epochs']}, and is saved.",
        hint=f"continue it with  {resume_command(run_dir)}",
        exit_code=EXIT_INTERRUPTED,
    )
