"""The one training loop, for every training stage, on one or many processes, for one run or several together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from cikd_cli.console import Reporter
from cikd_cli.engine.clock import Clock, Every, SaveTimer
from cikd_cli.engine.step import Training, resume_command, train_step
from cikd_cli.errors import EXIT_FAILED, CikdError
from cikd_cli.processes.stop import Reason, StopRequest, reason
from cikd_cli.processes.world import World
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.metrics import drop_metrics_after
from cikd_cli.text import duration

Going = Sequence[tuple[Training, RunDir]]


@dataclass(frozen=True)
class Outcome:
    """How a call of `fit` ended; stopped: why before the end, after it had saved."""

    stopped: Reason | None
    epoch: int
    seconds: float
    images_per_second: float


def fit(runs: Going, world: World, reporter: Reporter, *, save_every: str) -> Outcome:
    """Train from the run's last checkpoint, if it has one, to the end or to a signal; `save_every` as typed.

    Several runs, all of them new, take every step together, on the batches of the first one's loader.
    """
    for training, run in runs:
        _restore(training, run, world, reporter)
    trainings = [training for training, _ in runs]
    first = trainings[0]
    step = first.progress.step
    per_epoch, steps = first.loader.steps_per_epoch, first.steps
    clock = Clock(before := first.progress.seconds, images=first.config.batch_size)
    save_timer, bar_timer = SaveTimer(save_every), Every(0.25)
    with StopRequest() as stop, reporter.progress(steps, unit="steps") as bar:
        bar.update(step, _epoch(first, step))
        for batch in clock.waiting(first.loader.batches(step, steps)):
            epoch = step // per_epoch
            on = replace(world, moved=lambda: None) if first.compiling else world  # compiling may take its time
            terms = train_step(trainings, batch.to(world.device), on, step=step, epoch=epoch)
            world.moved()
            step += 1
            for training, its in zip(trainings, terms, strict=True):
                training.totals.add(its)
                training.progress.step = step
            if first.compiling:
                reporter.line(f"compiled: the first step was done after {duration(clock.seconds - before)}")
                first.compiling = False
            epoch_done, done = step % per_epoch == 0, step == steps
            if epoch_done or world.device.type == "cpu":  # on a GPU each look would wait for it
                for training, run in runs:
                    training.check(run, epoch)
            if epoch_done:
                for training in trainings:
                    training.flush()  # before the processes meet, so that each then finds what the others wrote
                for training, run in runs:
                    training.close_epoch(run, clock)
                world.moved()
            if done or bar_timer.due():
                bar.update(step, _epoch(first, step - 1), *_describe(runs, terms, clock))
            due = world.first and save_timer.due(epoch + 1 if epoch_done else None)
            *votes, saving = world.any(*stop.votes(), stop.save_asked() or due)
            stopping = reason(votes)
            keep = epoch_done and first.config.keep_every and (epoch + 1) % first.config.keep_every == 0
            if stopping or saving or keep or done:
                for training, run in runs:
                    training.check(run, epoch, weights=True)
                    training.flush()
                for training, run in runs:
                    training.save(run, clock, keep_as=f"epoch-{epoch + 1:04d}" if keep else None)
            if stopping and not done:
                return Outcome(stopping, step // per_epoch, clock.seconds, clock.rate)
    return Outcome(None, first.config.epochs, clock.seconds, clock.rate)


def _restore(training: Training, run: RunDir, world: World, reporter: Reporter) -> None:
    training.restore(run, reporter.warn if world.first else lambda _: None)
    if not world.agree(training.progress.step):
        raise CikdError(
            f"The processes do not find the same checkpoint in {run.checkpoints}",
            hint=f"the machines have to share the folder; then  {resume_command(run)}",
            exit_code=EXIT_FAILED,
        )
    if world.first:
        drop_metrics_after(run.path, training.epoch)


def _epoch(training: Training, step: int) -> str:
    """The epoch of the step after `step`, as people count."""
    epochs = training.config.epochs
    epoch = min(step // training.loader.steps_per_epoch + 1, epochs)
    return f"epoch {epoch:>{len(str(epochs))}}/{epochs}"


def _describe(runs: Going, terms: Sequence[dict[str, Tensor]], clock: Clock) -> list[str]:
    """What a progress line says, best first; reading the terms waits for a GPU, so only a few times a second."""
    losses = [sum(float(term) for term in its.values()) for its in terms]
    training, pace = runs[0][0], clock.pace
    eta = "" if pace is None else f"eta {duration((training.steps - training.progress.step) * pace)}"
    speed = clock.rate if pace is None else training.config.batch_size / pace
    waited = f"data wait {clock.waited:.0%}"
    if len(runs) > 1:
        each = [f"{run.path.name} {loss:.3f}" for (_, run), loss in zip(runs, losses, strict=True)]
        return [eta, f"loss {each[0]}", *each[1:], f"{speed:,.0f} img/s", waited]
    its = " ".join(f"{name} {float(term):.3f}" for name, term in terms[0].items())
    return [eta, f"loss {losses[0]:.3f}", f"{speed:,.0f} img/s", its, waited]
