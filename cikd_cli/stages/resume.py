"""`--resume RUN`: a run goes on in place."""

from collections.abc import Callable
from typing import Any

import torch

from cikd_cli.chain import check_resume
from cikd_cli.config import TrainingConfig
from cikd_cli.console import Reporter
from cikd_cli.engine.checkpoint import check_checkpoints
from cikd_cli.engine.distributed import Hardware, World
from cikd_cli.errors import CikdError
from cikd_cli.lineage import all_runs
from cikd_cli.options import Request
from cikd_cli.runs import RunDir
from cikd_cli.stages.execution import Begun, stored_config, train
from cikd_cli.stages.job import Job
from cikd_cli.stages.prepare import dry_run, prepare


def resume(
    request: Request,
    config_class: type[TrainingConfig],
    out: Reporter,
    hardware: Hardware,
    build: Callable[[Any, torch.device], Job],
) -> dict[str, Any]:
    """Continue a run in place; only --epochs may change, and says so."""
    options = request.options
    check_resume(request, config_class)
    run_dir = RunDir.open(str(options.resume), stages=(request.stage,), finished=False)
    config = stored_config(run_dir, config_class)
    epochs = request.flags.get("epochs", config.epochs)
    _check_epochs(run_dir, config.epochs, epochs)
    check_checkpoints(run_dir)
    job = build(config.model_copy(update={"epochs": epochs}), hardware.device)
    (training,) = prepare([job], World(hardware.device, size=hardware.processes), options)
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
        return dry_run([job], [training], hardware, out)
    with run_dir.lock():
        run_dir.update(status="running", weights=None, result=None)
        if epochs != config.epochs:
            run_dir.write_config(run_dir.config() | {"epochs": epochs})
    out.attach_log(run_dir.path / "log.txt")
    return train([Begun(job, training, run_dir)], hardware, options, out)


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
