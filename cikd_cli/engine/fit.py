"""The one training loop, for every training stage, on one or many processes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cikd_cli.config import TrainingConfig
from cikd_cli.console import Reporter, duration
from cikd_cli.data.batch import Batch
from cikd_cli.data.device_loader import DeviceLoader
from cikd_cli.data.loader import TrainLoader
from cikd_cli.engine.checkpoint import Progress, load_checkpoint, save_checkpoint
from cikd_cli.engine.clock import Clock, Every, SaveTimer
from cikd_cli.engine.distributed import World
from cikd_cli.engine.optim import create_optimizer, learning_rate, set_learning_rate
from cikd_cli.engine.precision import autocast
from cikd_cli.engine.stop import StopRequest
from cikd_cli.engine.totals import Totals, check_weights
from cikd_cli.models.drop_path import draw, use_draws
from cikd_cli.runs import RunDir

VOTE_EVERY = 10  # steps between the votes of several processes on stopping; one process looks at every step


@dataclass
class Training:
    """What a run trains: the method and the network inside it, on what, and how it is scored.

    evaluate: scores of a network, such as {"test_top1": 71.2}, which all processes work out together; keep_best: called
    with a network whose "val_top1" is the best so far. compiling: whether the next step has blocks to compile. flush:
    called by every process at the end of an epoch and before a checkpoint, to write what it has gathered.
    """

    config: TrainingConfig
    method: nn.Module
    model: VisionTransformer
    groups: list[dict[str, Any]]
    loader: TrainLoader | DeviceLoader
    precision: str
    evaluate: Callable[[VisionTransformer], dict[str, float]] | None = None
    keep_best: Callable[[VisionTransformer], None] | None = None
    compiling: bool = False
    flush: Callable[[], None] = lambda: None
    average: AveragedModel | None = field(init=False, default=None)
    optimizer: torch.optim.AdamW = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = create_optimizer(self.groups, betas=self.config.betas)
        self.scaler = torch.amp.GradScaler(enabled=self.precision == "fp16")
        if self.config.ema:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(self.config.ema))  # type: ignore[no-untyped-call]

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.epochs * self.loader.steps_per_epoch

    @property
    def deliverable(self) -> VisionTransformer:
        """The averaged network when there is one, else the network itself."""
        return self.model if self.average is None else self.average.module


@dataclass(frozen=True)
class Outcome:
    """How a call of `fit` ended."""

    finished: bool
    epoch: int
    seconds: float
    images_per_second: float


def fit(training: Training, run: RunDir, world: World, reporter: Reporter, *, save_every: str) -> Outcome:
    """Train from the run's last checkpoint, if it has one, to the end or to a signal; `save_every` as typed."""
    per_epoch, steps = training.loader.steps_per_epoch, training.steps
    progress = _restore(training, run, world, reporter)
    totals = Totals(progress.sums, world)
    clock = Clock(progress.seconds, images=training.config.batch_size)
    method = _distribute(training.method, world)
    save_timer, bar_timer = SaveTimer(save_every), Every(0.25)
    with StopRequest() as stop, reporter.progress(steps, unit="steps") as bar:
        for batch in clock.waiting(training.loader.batches(progress.step, steps)):
            epoch = progress.step // per_epoch
            batch = batch.to(world.device)
            totals.add(terms := train_step(training, method, batch, world, step=progress.step, epoch=epoch))
            if training.compiling:
                reporter.line(f"compiled: the first step was done after {duration(clock.seconds - progress.seconds)}")
                training.compiling = False
            progress.step += 1
            epoch_done, done = progress.step % per_epoch == 0, progress.step == steps
            if epoch_done or world.device.type == "cpu":  # on a GPU each look would wait for it
                totals.check_finite(epoch=epoch + 1, step=progress.step, rescue=resume_command(run))
            if epoch_done:
                training.flush()  # before the processes meet, so that each then finds what the others wrote
                _close_epoch(training, run, world, progress, totals.close(per_epoch), clock)
            if done or bar_timer.due():
                bar.update(progress.step, _describe(terms, epoch + 1, training, clock, steps - progress.step))
            votes = world.size == 1 or epoch_done or progress.step % VOTE_EVERY == 0
            due = votes and world.first and save_timer.due(epoch + 1 if epoch_done else None)
            stopping, saving = world.any(stop.asked, stop.save_asked() or due) if votes else (False, False)
            keep = epoch_done and training.config.keep_every and (epoch + 1) % training.config.keep_every == 0
            if stopping or saving or keep or done:
                totals.check_finite(epoch=epoch + 1, step=progress.step, rescue=resume_command(run))
                check_weights(training.model, epoch=epoch + 1, step=progress.step, rescue=resume_command(run))
                training.flush()
                progress.sums, progress.seconds = totals.agree(), clock.seconds
                _save(training, run, world, progress, keep_as=f"epoch-{epoch + 1:04d}" if keep else None)
            if stopping and not done:
                return Outcome(False, progress.step // per_epoch, clock.seconds, clock.rate)
    return Outcome(True, training.config.epochs, clock.seconds, clock.rate)


def train_step(
    training: Training, method: nn.Module, batch: Batch, world: World, *, step: int, epoch: int
) -> dict[str, Tensor]:
    """One optimizer step on this process's share of the batch; the detached mean terms over the micro-batches."""
    config = training.config
    draws = draw(
        training.model, seed=config.seed, step=step, rows=len(batch.index), rank=world.rank, size=world.size
    ).to(world.device, non_blocking=True)
    method.train()
    rate = learning_rate(
        step / training.loader.steps_per_epoch,
        epochs=config.epochs,
        warmup=config.warmup,
        peak=config.lr,
        floor=config.min_lr,
    )
    set_learning_rate(training.optimizer, rate)
    parts = batch.split(config.accumulate)
    totals: dict[str, Tensor] = {}
    for number, (part, drawn) in enumerate(zip(parts, draws.chunk(config.accumulate, dim=1), strict=True), start=1):
        use_draws(training.model, drawn)
        share = len(part.index) / len(batch.index)
        if isinstance(method, DistributedDataParallel):
            method.require_backward_grad_sync = number == len(parts)
        with autocast(training.precision, batch.images.device):
            terms = method(part, epoch)
        training.scaler.scale(sum(terms.values()) * share).backward()
        for name, term in terms.items():
            scaled = term.detach() * share
            totals[name] = totals[name] + scaled if name in totals else scaled
    use_draws(training.model, None)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)
    if training.average is not None:
        training.average.update_parameters(training.model)
    return totals


def resume_command(run: RunDir) -> str:
    """What a user types to go on with a run."""
    return f"cikd {run.record['stage']} --resume {run.path}"


def _restore(training: Training, run: RunDir, world: World, reporter: Reporter) -> Progress:
    progress = load_checkpoint(
        run,
        model=training.model,
        optimizer=training.optimizer,
        average=training.average,
        warn=reporter.warn if world.first else lambda _: None,
    )
    if progress.scaler:
        training.scaler.load_state_dict(progress.scaler)
    if world.first:
        run.drop_metrics_after(progress.step // training.loader.steps_per_epoch)
    return progress


def _distribute(method: nn.Module, world: World) -> nn.Module:
    if world.size == 1:
        return method
    # around the method, never the student: in ALI the logits would reach parameters that the loss does not
    return DistributedDataParallel(method, device_ids=[world.device] if world.device.type == "cuda" else None)


def _close_epoch(
    training: Training, run: RunDir, world: World, progress: Progress, means: dict[str, float], clock: Clock
) -> None:
    """Score the network when it is time, and append the epoch's row to metrics.jsonl."""
    epochs, epoch = training.config.epochs, progress.step // training.loader.steps_per_epoch
    every = training.config.eval_every or max(1, epochs // 20)
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
        run.append_metrics(row | {"waited_for_data": round(clock.waited, 4)})
        run.update(progress={"epoch": epoch, "epochs": epochs})


def _save(training: Training, run: RunDir, world: World, progress: Progress, *, keep_as: str | None) -> None:
    if world.first:
        progress.scaler = training.scaler.state_dict()
        save_checkpoint(
            run,
            model=training.model,
            optimizer=training.optimizer,
            average=training.average,
            progress=progress,
            keep_as=keep_as,
        )


def _describe(terms: dict[str, Tensor], epoch: int, training: Training, clock: Clock, steps_left: int) -> str:
    """The progress line; reading the terms waits for a GPU, so it is made a few times a second only."""
    parts = " ".join(f"{name} {float(term):.3f}" for name, term in terms.items())
    loss = sum(float(term) for term in terms.values())
    left = steps_left * training.config.batch_size / max(clock.rate, 1e-9)
    return (
        f"epoch {epoch:>3}/{training.config.epochs}  loss {loss:.3f} ({parts})  {clock.rate:,.0f} img/s  "
        f"data wait {clock.waited:.0%}  eta {duration(left)}"
    )
