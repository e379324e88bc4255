"""`--resume RUN`: a run goes on in place. `--name NAME --continue`: so does the run of that name, if it is there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from cikd_cli.console import Reporter
from cikd_cli.engine.checkpoint import saved_step
from cikd_cli.errors import EXIT_FAILED, CikdError
from cikd_cli.processes import environment
from cikd_cli.processes.world import Hardware
from cikd_cli.runs.chain import check_resume
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.lineage import all_runs
from cikd_cli.settings.configs import TrainingConfig
from cikd_cli.settings.knob import Role, facts_of, flag_name
from cikd_cli.settings.names import data_name
from cikd_cli.settings.parse import validate
from cikd_cli.settings.recipes import typed_values
from cikd_cli.settings.request import Request
from cikd_cli.settings.stages import STAGES, TEACHER
from cikd_cli.training import header, held_out
from cikd_cli.training.execute import Begun, check_images, stored_config, told_with, train
from cikd_cli.training.images import parents_of, tell
from cikd_cli.training.job import build
from cikd_cli.training.prepare import prepare
from cikd_cli.training.rehearsal import dry_run


def resume(request: Request, out: Reporter, hardware: Hardware) -> dict[str, Any]:
    """Continue a run in place; only --epochs may change, and says so."""
    options, stage = request.options, STAGES[request.stage]
    check_resume(request, stage.config)
    run_dir = RunDir.open(str(options.resume), stages=(request.stage,), finished=False)
    config = stored_config(run_dir, stage.config)
    epochs = request.flags.get("epochs", config.epochs)
    _check_epochs(run_dir, config.epochs, epochs)
    step = saved_step(run_dir)
    job = build(stage, config.model_copy(update={"epochs": epochs}), hardware.device, warn=out.warn)
    (training,) = prepare([job], hardware.world, options)
    anew = "cikd run --fresh" if request.curriculum is not None else f"cikd {request.stage} without --resume"
    check_images(run_dir, job, hint=f"{anew} starts a new run")
    if epochs != config.epochs:
        out.line(f"epochs {config.epochs} → {epochs}: from here on the learning rate follows the longer cosine")
    done = f"after epoch {step // training.loader.steps_per_epoch} of {epochs}"
    tell(out, [("resume", f"{run_dir.path} {done if step else 'from its beginning: nothing was saved'}"), *job.facts])
    if options.dry_run:
        return dry_run([job], [training], hardware, out)
    begun = [Begun(job, training, run_dir)]
    with told_with(begun, out):
        with run_dir.lock():
            run_dir.update(status="running", weights=None, result=None, message=None, finished=None)
            if epochs != config.epochs:
                run_dir.write_config(run_dir.config() | {"epochs": epochs})
            if not run_dir.record.images:  # killed before it had written them
                held_out.write(run_dir, job.source, held_out.remember(parents_of(job.config)))
        out.attach_log(run_dir.path / "log.txt")
        return train(begun, hardware, options, out)


def find_named(request: Request) -> RunDir | None:
    """The run that --name and --continue ask for, if it is there."""
    options = request.options
    if not options.go_on:
        return None
    if options.name is None or request.several:
        raise CikdError("--continue goes on with the one run of a name", hint="--name NAME, and one run a command")
    path = Path(options.runs_dir) / options.name
    return RunDir.open(path, stages=(request.stage,), finished=False) if (path / "run.json").exists() else None


def go_on(run_dir: RunDir, request: Request, out: Reporter, hardware: Hardware) -> dict[str, Any]:
    """Continue a run that the same command began; a finished one is taken as it is."""
    record, epochs = run_dir.record, run_dir.config()["epochs"]
    if record.status == "failed" and environment.restart():
        raise CikdError(str(record.message), exit_code=EXIT_FAILED)  # it would fail again
    _check_same(run_dir, request)
    longer = {"epochs": request.flags["epochs"]} if request.flags.get("epochs", epochs) != epochs else {}
    if record.status == "done" and not longer:
        out.line(f"{run_dir.path} is finished; taken as it is")
        return header.summarise([run_dir], out)
    options = request.options.going_on(resume=str(run_dir.path))
    return resume(replace(request, options=options, flags=longer), out, hardware)


def check_restarts(request: Request) -> None:
    """Refuse a command that its launcher may start again if it would then begin another run."""
    options = request.options
    if environment.may_restart() and options.resume is None and not options.go_on:
        raise CikdError(
            "torchrun --max-restarts starts this command again after a fault, and it would begin a second run",
            hint="--name NAME --continue goes on with the first one",
        )


def _check_same(run_dir: RunDir, request: Request) -> None:
    """Refuse flags that contradict the config that the run was begun with; longer runs may differ in epochs."""
    config_class: Any = STAGES[request.stage].config
    stored = validate(config_class, run_dir.config(), command=run_dir.stage)
    recipe, begun_with = request.options.recipe, run_dir.record.recipe
    if recipe not in (None, begun_with):
        raise CikdError(
            f"{run_dir.path} was begun with the recipe {begun_with}, not {recipe}",
            hint="another --name begins another run; without --recipe this one goes on",
        )
    for key, typed in typed_values(config_class, run_dir.stage, request.flags, request.options).items():
        before = getattr(stored, key)
        if key == "epochs" or (key == "precision" and typed == "auto"):
            continue
        if _as_stored(config_class, key, typed) != _as_stored(config_class, key, before):
            flag = flag_name(key, config_class.model_fields[key])
            raise CikdError(
                f"{run_dir.path} was begun with {flag} {before}, not {typed}",
                hint=f"another --name begins another run; without {flag} this one goes on",
            )


def _as_stored(config_class: type[TrainingConfig], key: str, value: Any) -> Any:
    """Paths as they are written into a run's config; of a run only its name, as runs may be moved together."""
    if key == "data" and value is not None:
        return data_name(value)
    facts = facts_of(config_class.model_fields[key])
    if facts.takes or key == TEACHER:
        return Path(str(value)).name
    if facts.metavar and facts.role & Role.PLACE:
        return None  # where things lie may change
    return value


def _check_epochs(run_dir: RunDir, before: int, epochs: int) -> None:
    """Refuse a resume that has nothing to do, that would go back, or that would change what other runs stand on."""
    command = f"cikd {run_dir.stage} --resume {run_dir.path}"
    if epochs < before:
        raise CikdError(f"{run_dir.path} was begun for {before} epochs; {epochs} are fewer.", hint=command)
    if run_dir.record.status != "done":
        return
    if epochs == before:
        raise CikdError(
            f"{run_dir.path} is finished ({before} of {before} epochs).", hint=f"{command} --epochs N trains on"
        )
    for child in all_runs(run_dir.path.parent):
        parents = [child.resolve_parent(entry).resolve() for entry in child.record.parents]
        if run_dir.path.resolve() in parents:
            raise CikdError(
                f"{child.path} was made from {run_dir.path}, which therefore has to stay as it is.",
                hint=f"start a new run with --epochs {epochs}",
            )
