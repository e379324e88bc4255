"""The one training loop, for every training stage, on one or many processes, for one run or several together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cikd_cli.console import Reporter, duration
from cikd_cli.engine.checkpoint import Progress, load_checkpoint, save_checkpoint
from cikd_cli.engine.clock import Clock, Every, SaveTimer
from cikd_cli.engine.step import Training, train_step
from cikd_cli.engine.totals import Totals, check_weights
from cikd_cli.errors import EXIT_FAILED, CikdError
from cikd_cli.processes.stop import Reason, StopRequest, reason
from cikd_cli.processes.world import World
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.configs import TrainingConfig


@dataclass(frozen=True)
class Outcome:
    """How a call of `fit` ended; stopped: why before the end, after it had saved."""

    stopped: Reason | None
    epoch: int
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class _Going:
    """A run under way: what it trains, how far it is, and the terms of its epoch."""

    training: Training
    run: RunDir
    progress: Progress
    totals: Totals


def fit(runs: Sequence[tuple[Training, RunDir]], world: World, reporter: Reporter, *, save_every: str) -> Outcome:
    """Train from the run's last checkpoint, if it has one, to the end or to a signal; `save_every` as typed.

    Several runs, all of them new, take every step together, on the batches of the first one's loader.
    """
    going = [_restore(training, run, world, reporter) for training, run in runs]
    trainings = [training for training, _ in runs]
    first, step = trainings[0], going[0].progress.step
    per_epoch, steps = first.loader.steps_per_epoch, first.steps
    clock = Clock(before := going[0].progress.seconds, images=first.config.batch_size)
    save_timer, bar_timer = SaveTimer(save_every), Every(0.25)
    with StopRequest() as stop, reporter.progress(steps, unit="steps") as bar:
        bar.update(step, _epoch(first, step))
        for batch in clock.waiting(first.loader.batches(step, steps)):
            epoch = step // per_epoch
            on = replace(world, moved=lambda: None) if first.compiling else world  # compiling may take its time
            terms = train_step(trainings, batch.to(world.device), on, step=step, epoch=epoch)
            world.moved()
            step += 1
            for one, its in zip(going, terms, strict=True):
                one.totals.add(its)
                one.progress.step = step
            if first.compiling:
                reporter.line(f"compiled: the first step was done after {duration(clock.seconds - before)}")
                first.compiling = False
            epoch_done, done = step % per_epoch == 0, step == steps
            if epoch_done or world.device.type == "cpu":  # on a GPU each look would wait for it
                _check(going, epoch)
            if epoch_done:
                _flush(trainings)  # before the processes meet, so that each then finds what the others wrote
                for one in going:
                    _close_epoch(one, world, clock)
                world.moved()
            if done or bar_timer.due():
                bar.update(step, _epoch(first, step - 1), *_describe(going, terms, clock))
            due = world.first and save_timer.due(epoch + 1 if epoch_done else None)
            *votes, saving = world.any(*stop.votes(), stop.save_asked() or due)
            stopping = reason(votes)
            keep = epoch_done and first.config.keep_every and (epoch + 1) % first.config.keep_every == 0
            if stopping or saving or keep or done:
                _check(going, epoch, weights=True)
                _flush(trainings)
                for one in going:
                    _save(one, world, clock, keep_as=f"epoch-{epoch + 1:04d}" if keep else None)
            if stopping and not done:
                return Outcome(stopping, step // per_epoch, clock.seconds, clock.rate)
    return Outcome(None, first.config.epochs, clock.seconds, clock.rate)


def resume_command(run: RunDir) -> str:
    """What a user types to go on with a run."""
    return f"cikd {run.record['stage']} --resume {run.path}"


def evaluation_interval(config: TrainingConfig) -> int:
    """Epochs from one evaluation to the next."""
    return config.eval_every or max(1, config.epochs // 20)


def _restore(training: Training, run: RunDir, world: World, reporter: Reporter) -> _Going:
    progress = load_checkpoint(
        run,
        model=training.model,
        optimizer=training.optimizer,
        average=training.average,
        warn=reporter.warn if world.first else lambda _: None,
    )
    if progress.scaler:
        training.scaler.load_state_dict(progress.scaler)
    if not world.agree(progress.step):
        raise CikdError(
            f"The processes do not find the same checkpoint in {run.checkpoints}",
            hint=f"the machines have to share the folder; then  {resume_command(run)}",
            exit_code=EXIT_FAILED,
        )
    if world.first:
        run.drop_metrics_after(progress.step // training.loader.steps_per_epoch)
    training.method = _distribute(training.method, world)
    return _Going(training, run, progress, Totals(progress.sums, world))


def _distribute(method: nn.Module, world: World) -> nn.Module:
    if world.size == 1:
        return method
    # around the method, never the student: in ALI the logits would reach parameters that the loss does not
    return DistributedDataParallel(method, device_ids=[world.device] if world.device.type == "cuda" else None)


def _check(going: Sequence[_Going], epoch: int, *, weights: bool = False) -> None:
    """Stop when a loss, or the weights, of any run are no longer finite."""
    for one in going:
        where = {"epoch": epoch + 1, "step": one.progress.step}
        one.totals.check_finite(**where, run=str(one.run.path), rescue=resume_command(one.run))
        if weights:
            check_weights(one.training.model, **where, run=str(one.run.path), rescue=resume_command(one.run))


def _flush(trainings: Sequence[Training]) -> None:
    for training in trainings:
        training.flush()


def _close_epoch(one: _Going, world: World, clock: Clock) -> None:
    """Score the network when it is time, and append the epoch's row to metrics.jsonl."""
    training, progress, per_epoch = one.training, one.progress, one.training.loader.steps_per_epoch
    means = one.totals.close(per_epoch)
    epochs, epoch = training.config.epochs, progress.step // per_epoch
    every = evaluation_interval(training.config)
    scores: dict[str, float] = {}
    if training.evaluate and (epoch % every == 0 or epoch == epochs):
        scores = training.evaluate(training.deliverable)
        if training.keep_best and scores.get("val_top1", -1.0) > progress.best:
            progress.best = scores["val_top1"]
            training.keep_best(training.deliverable)
    world.barrier()
    if world.first:
        row = {"epoch": epoch, "step": progress.step, "loss": sum(means.values()), **means, **scores}
        row |= {"lr": training.optimizer.param_groups[-1]["lr"] / training.optimizer.param_groups[-1]["lr_scale"]}
        row |= {"seconds": round(clock.seconds, 2), "images_per_second": round(clock.rate, 1)}
        one.run.append_metrics(row | {"waited_for_data": round(clock.waited, 4)})
        one.run.update(progress={"epoch": epoch, "epochs": epochs})


def _save(one: _Going, world: World, clock: Clock, *, keep_as: str | None) -> None:
    training, progress = one.training, one.progress
    progress.sums, progress.seconds = one.totals.agree(), clock.seconds
    if world.first:
        progress.scaler = training.scaler.state_dict()
        save_checkpoint(
            one.run,
            model=training.model,
            optimizer=training.optimizer,
            average=training.average,
            progress=progress,
            keep_as=keep_as,
        )


def _epoch(training: Training, step: int) -> str:
    """The epoch of the step after `step`, as people count."""
    epochs = training.config.epochs
    epoch = min(step // training.loader.steps_per_epoch + 1, epochs)
    return f"epoch {epoch:>{len(str(epochs))}}/{epochs}"


def _describe(going: Sequence[_Going], terms: Sequence[dict[str, Tensor]], clock: Clock) -> list[str]:
    """What a progress line says, best first; reading the terms waits for a GPU, so only a few times a second."""
    losses = [sum(float(term) for term in its.values()) for its in terms]
    training, pace = going[0].training, clock.pace
    eta = "" if pace is None else f"eta {duration((training.steps - going[0].progress.step) * pace)}"
    speed = clock.rate if pace is None else training.config.batch_size / pace
    waited = f"data wait {clock.waited:.0%}"
    if len(going) > 1:
        each = [f"{one.run.path.name} {loss:.3f}" for one, loss in zip(going, losses, strict=True)]
        return [eta, f"loss {each[0]}", *each[1:], f"{speed:,.0f} img/s", waited]
    its = " ".join(f"{name} {float(term):.3f}" for name, term in terms[0].items())
    return [eta, f"loss {losses[0]:.3f}", f"{speed:,.0f} img/s", its, waited]
