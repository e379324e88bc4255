"""Training of runs that have their folders, on one or many processes, to a result or to what stopped it."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cikd_cli.console import Reporter, reporter
from cikd_cli.engine.checkpoint import saved_step
from cikd_cli.engine.fit import Outcome, fit
from cikd_cli.engine.step import Training, resume_command
from cikd_cli.errors import EXIT_INTERRUPTED, CikdError
from cikd_cli.files import file_sha256, write_atomically
from cikd_cli.models.weights import encode_model
from cikd_cli.processes import rank_logs
from cikd_cli.processes.launch import launch
from cikd_cli.processes.world import Hardware, World
from cikd_cli.runs import locks
from cikd_cli.runs.ancestry import open_entry
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.configs import StageConfig
from cikd_cli.settings.parse import check_keys, validate
from cikd_cli.settings.request import RunOptions
from cikd_cli.settings.stages import STAGES
from cikd_cli.training import header
from cikd_cli.training.job import Job, build
from cikd_cli.training.prepare import prepare

AT_ONCE = "stopped at once"  # before the first step, or by a second Ctrl-C


class Begun(NamedTuple):
    """A run with its folder, and what it trains."""

    job: Job
    training: Training
    run: RunDir


def train(begun: Sequence[Begun], hardware: Hardware, options: RunOptions, out: Reporter) -> dict[str, Any]:
    """Train in this process, alone or with its peers, or let each launched process build its own job; then report.

    Several runs are trained together, in this process alone.
    """
    paths = [one.run.path for one in begun]
    with ExitStack() as locks:
        for one in begun:
            locks.enter_context(one.run.lock())
        try:
            if hardware.joined is not None:
                hardware.joined.announce(paths[0])
                execute(begun, hardware.joined.world, options, out)
                rank_logs.clear(paths[0])
            elif hardware.processes == 1:
                execute(begun, World(hardware.device), options, out)
            else:
                launch(_worker, hardware, paths[0], options, stall=options.stall, warn=out.warn)
        except BaseException as error:  # whatever it was, no run must look as if it were still running
            if hardware.joined is not None and rank_logs.is_loss(error):
                raise  # by the error of another process, which `processes/join` will tell
            with suppress(CikdError, OSError):  # a full disk: the first error is the one to show
                for path in paths:
                    _end_badly(path, error)
                if not isinstance(error, KeyboardInterrupt):
                    out.note(f"error: {error}")
            raise
    runs = [RunDir.open(path, finished=False) for path in paths]
    if any(run.record.status != "done" for run in runs):
        raise _stopped(begun, out)
    return header.summarise(runs, out)


@contextmanager
def told_with(begun: Sequence[Begun], out: Reporter) -> Iterator[None]:
    """Around all that follows the claim of runs: a Ctrl-C is told with how they go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not begun:
            raise
        raise _stopped(begun, out) from stop


def _stopped(begun: Sequence[Begun], out: Reporter) -> CikdError:
    """What is told, and noted, of runs that a signal has stopped."""
    runs = [RunDir.open(one.run.path, finished=False) for one in begun]
    for run in runs:
        if run.record.status == "running":  # its processes were told to stop before they had begun
            run.fail("interrupted", AT_ONCE)
    stop = _interrupted(runs, begun[0].training.loader.steps_per_epoch)
    out.note(stop.message)
    out.note(str(stop.hint))
    return stop


def _end_badly(path: Path, error: BaseException) -> None:
    stopped = isinstance(error, KeyboardInterrupt)
    message = AT_ONCE if stopped else str(error) or type(error).__name__
    RunDir.open(path, finished=False).fail("interrupted" if stopped else "failed", message)


def follow(path: Path, world: World, options: RunOptions) -> None:
    """As a joined process that is not the first, train the run that the first one has announced."""
    if not _worker(world, path, options):
        raise CikdError("Stopped", exit_code=EXIT_INTERRUPTED, shown=True)  # said by the first process


def _worker(world: World, path: Path, options: RunOptions) -> bool:
    """One process of several: everything it needs is in the run directory. Whether it trained to the end."""
    run_dir = RunDir.open(path, finished=False)
    stage = STAGES[run_dir.stage]
    out = reporter(quiet=options.quiet or not world.first, as_json=options.as_json)
    job = build(stage, stored_config(run_dir, stage.config), world.device, warn=out.warn)
    check_images(run_dir, job, hint="every process, on every machine, has to see the same folder")
    begun = Begun(job, prepare([job], world, options)[0], run_dir)
    if world.first:
        out.attach_log(run_dir.path / "log.txt")
    with locks.hold(run_dir.path, locks.WRITER) if world.first else nullcontext():
        return execute([begun], world, options, out)


def check_images(run_dir: RunDir, job: Job, *, hint: str) -> None:
    """Refuse images that are not those a run began with."""
    recorded, found = run_dir.record.data.fingerprint, job.source.fingerprint
    if recorded != found:
        raise CikdError(
            f"The images of {job.config.data} have changed since {run_dir.path} began (fingerprints "
            f"{recorded[:8]}… and {found[:8]}…).",
            hint=hint,
        )


def execute(begun: Sequence[Begun], world: World, options: RunOptions, out: Reporter) -> bool:
    """Train on this process; the first one writes the deliverables and the results, or how far they came.

    Whether it trained to the end.
    """
    outcome = fit([(one.training, one.run) for one in begun], world, out, save_every=options.save_every)
    for one in begun if world.first else ():
        run, job = one.run, one.job
        if outcome.stopped is None:
            write_atomically(run.weights, encode_model(one.training.deliverable, job.spec))
            run.finish(_result(run, job, outcome), file_sha256(run.weights))
        else:
            when = f"after epoch {outcome.epoch} of {job.config.epochs}" if outcome.epoch else "in its first epoch"
            run.fail("interrupted", " ".join(filter(None, ("stopped", outcome.stopped.value, when))))
    return outcome.stopped is None


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
    if job.source.val is not None and job.method.needs.scored:
        result["best_val_top1"] = max(row.get("val_top1", -1.0) for row in run_dir.metrics())
    return result


def stored_config(run_dir: RunDir, config_class: type[StageConfig]) -> Any:
    """A run's config, with its parents where they lie now, compiled or not as it began."""
    values = {"compile": run_dir.record.compiled} | run_dir.config()
    for parent in run_dir.record.parents:
        values[parent.knob] = str(open_entry(run_dir, parent).path)
    check_keys(config_class, values, str(run_dir.path / "config.toml"), command=run_dir.stage)
    return validate(config_class, values, command=run_dir.stage)


def _interrupted(runs: Sequence[RunDir], steps_per_epoch: int) -> CikdError:
    """What stopped runs say, and how they go on."""
    named, first = ", ".join(str(run.path) for run in runs), runs[0]
    it = "it" if len(runs) == 1 else "each"
    again = f"continue {it} with"
    commands = "  and  ".join(resume_command(run) for run in runs)
    if first.record.curriculum:
        commands += f"  or all that is left with  {curriculum_command(first.record.argv)}"
    message = first.record.message or AT_ONCE
    said = f"{named} {message}, and {'is' if len(runs) == 1 else 'are'} saved."
    if message == AT_ONCE:
        step, epochs = saved_step(first), first.config()["epochs"]
        epoch = step // steps_per_epoch
        last = f"epoch {epoch} of {epochs}" if epoch else "its first epoch"
        said = f"{named} {AT_ONCE}; the last checkpoint is of {last}."
        if step == 0:
            said, again = f"{named} stopped before anything could be saved.", f"begin {it} again with"
    return CikdError(said, hint=f"{again}  {commands}", exit_code=EXIT_INTERRUPTED)


def curriculum_command(argv: Sequence[str]) -> str:
    """The `cikd run` that goes on with what the command `argv` has begun."""
    return shlex.join(["cikd", *(word for word in argv[1:] if word != "--fresh")])
