"""What the three training stages share: resolve, check, claim a run or several, train."""

from importlib import import_module
from pathlib import Path
from typing import Any

from cikd_cli.console import reporter
from cikd_cli.engine.precision import choose_precision
from cikd_cli.engine.step import resume_command
from cikd_cli.errors import CikdError
from cikd_cli.processes import environment
from cikd_cli.processes.join import Peers
from cikd_cli.processes.world import Hardware, choose_hardware
from cikd_cli.runs import numbering
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.inheritance import resolve_stage
from cikd_cli.settings.names import data_name
from cikd_cli.settings.request import Request
from cikd_cli.settings.stages import STAGES
from cikd_cli.training import header, held_out
from cikd_cli.training.execute import Begun, follow, told_with, train
from cikd_cli.training.images import parents_of
from cikd_cli.training.job import build_together, fit_batch
from cikd_cli.training.logit_cache import cache_folder
from cikd_cli.training.prepare import prepare
from cikd_cli.training.rehearsal import dry_run, roughly, seconds_of, worth_foretelling
from cikd_cli.training.resume import check_restarts, find_named, go_on, resume


def run(request: Request) -> dict[str, Any]:
    """Carry out a training command; the summary for --json. Raises CikdError (130) when stopped and saved.

    Among the processes of a launcher, the first one carries it out and the others follow.
    """
    options = request.options
    if not environment.started_by_launcher():
        return _carry_out(request, choose_hardware(options.gpus, options.processes or 1))
    check_restarts(request)
    peers = Peers(options)
    with peers.together():
        if environment.rank() == 0:
            return _carry_out(request, peers.hardware)
        path = peers.follow()
        if path is not None and peers.hardware.joined is not None:
            follow(path, peers.hardware.joined.world, options)
    return {}


def _carry_out(request: Request, hardware: Hardware) -> dict[str, Any]:
    options, stage = request.options, STAGES[request.stage]
    out = reporter(quiet=options.quiet, as_json=options.as_json)
    if options.resume is not None:
        return resume(request, out, hardware)
    found = find_named(request)
    if found is not None:
        return go_on(found, request, out, hardware)
    resolved, inherited = resolve_stage(stage.config, request)
    names = _names(request, hardware)
    for name in names:
        numbering.check_free(Path(options.runs_dir), name, stage=request.stage)
    config = _settle(resolved.config, hardware, Path(options.runs_dir))
    jobs = build_together(stage, _each(config, request), hardware.device, warn=out.warn)
    for job in jobs if "batch_size" in resolved.by_data else ():
        fit_batch(job, hardware.processes)
    foretold = not options.dry_run and worth_foretelling(jobs, hardware, options)
    seconds = seconds_of(jobs, hardware, options) if foretold else 0.0
    trainings = prepare(jobs, hardware.world, options)
    if jobs[0].examine is not None:
        jobs[0].examine(out)
    header.show(
        out, jobs, trainings[0], hardware, resolved, note=inherited.note, foretold=roughly(seconds) if seconds else None
    )
    if options.dry_run:
        summary = dry_run(jobs, trainings, hardware, out)
        seconds = summary["plan"]["seconds"]
    if request.curriculum is None:  # else `cikd run` has said so of all its stages
        import_module("cikd_cli.training.ahead").offer_laptop(seconds, config, resolved.recipe, hardware, options, out)
    if options.dry_run:
        return summary
    begun: list[Begun] = []
    with told_with(begun, out):
        for name, job, training in zip(names, jobs, trainings, strict=True):
            run_dir = RunDir.create(
                Path(options.runs_dir),
                request.stage,
                prefix=stage.prefix,
                name=name,
                record=header.record(request, job, training, hardware, resolved.recipe),
                config=job.config.model_dump(mode="json"),
            )
            begun.append(Begun(job, training, run_dir))
            held_out.write(run_dir, job.source, held_out.remember(parents_of(job.config)))
        out.attach_log(*(one.run.path / "log.txt" for one in begun))
        stop = "stop with Ctrl-C (saves); resume: "
        out.fields([*(("run", f"{one.run.path}  {stop}{resume_command(one.run)}") for one in begun), ("", "")])
        return train(begun, hardware, options, out)


def _names(request: Request, hardware: Hardware) -> list[str | None]:
    """What the run is to be called, or each of several: `X-lob7`, `X-lob8`; none: the next number."""
    name = request.options.name
    for key, values in request.several.items():
        if hardware.processes > 1:
            raise CikdError(
                f"{len(values)} students on one pass of the teacher are trained by one process, not by "
                f"{hardware.processes}.",
                hint=f"--gpus 1 or --processes 1, or one command for each --{key}",
            )
        return [name and f"{name}-{key}{value}" for value in values]
    return [name]


def _each(config: Any, request: Request) -> list[Any]:
    """The config, or one with each of the values of the knob that several were typed for."""
    several = [config.model_copy(update={key: value}) for key, values in request.several.items() for value in values]
    return several or [config]


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
