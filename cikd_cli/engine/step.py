"""A run under training, and one optimizer step of one or several of them, whatever the method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cikd_cli.data.batch import Batch
from cikd_cli.data.device_loader import DeviceLoader
from cikd_cli.data.loader import TrainLoader
from cikd_cli.engine.checkpoint import Progress, load_checkpoint, save_checkpoint
from cikd_cli.engine.clock import Clock
from cikd_cli.engine.optim import (
    create_optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
    single_threaded,
)
from cikd_cli.engine.precision import autocast
from cikd_cli.engine.totals import Totals, check_state
from cikd_cli.methods import Moment
from cikd_cli.models.drop_path import draw, use_draws
from cikd_cli.processes.world import World
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.metrics import append_metrics
from cikd_cli.settings.configs import TrainingConfig


@dataclass
class Training:
    """What a run trains, on what, how it is scored, and how far it is; complete when it is made.

    method: see `methods.Method`; its parameters and buffers are what is optimised, averaged (buffers as they are),
    checked, saved and restored. evaluate: scores of a network, such as {"test_top1": 71.2}, which all processes work
    out together. encode: the weights file of a network. compiling: whether the next step has blocks to compile.
    """

    config: TrainingConfig
    method: Any
    loader: TrainLoader | DeviceLoader
    precision: str
    world: World
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None
    encode: Callable[[nn.Module], bytes] | None = None
    compiling: bool = False
    trained: nn.Module = field(init=False)
    average: AveragedModel | None = field(init=False, default=None)
    optimizer: torch.optim.AdamW = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)
    progress: Progress = field(init=False, default_factory=Progress)
    totals: Totals = field(init=False)
    wrapped: Any = field(init=False)  # the method as it is called: on several processes, by DistributedDataParallel

    def __post_init__(self) -> None:
        config = self.config
        groups = parameter_groups(
            self.method,
            self.method.student,
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay,
            token_decay=self.method.needs.token_decay,
        )
        self.optimizer = create_optimizer(groups, betas=config.betas)
        self.scaler = torch.amp.GradScaler(enabled=self.precision == "fp16")
        self.totals, self.wrapped, self.trained = Totals({}, self.world), self.method, _Trained(self.method)
        if config.ema:
            self.average = AveragedModel(self.trained, multi_avg_fn=get_ema_multi_avg_fn(config.ema))  # type: ignore[no-untyped-call]

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.epochs * self.loader.steps_per_epoch

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return self.progress.step // self.loader.steps_per_epoch

    @property
    def deliverable(self) -> Any:
        """The student: the averaged one when there is one, else as it is."""
        return (self.method if self.average is None else self.average.module).student

    def restore(self, run: RunDir, warn: Callable[[str], None]) -> None:
        """Take up the run's last checkpoint, if it has one; on several processes, wrap the method."""
        self.progress = load_checkpoint(
            run, method=self.method, optimizer=self.optimizer, average=self.average, warn=warn
        )
        if self.progress.scaler:
            self.scaler.load_state_dict(self.progress.scaler)
        self.totals = Totals(self.progress.sums, self.world)
        if self.world.size > 1:
            # around the method, never the student: in ALI the logits would reach parameters that the loss does not
            devices = [self.world.device] if self.world.device.type == "cuda" else None
            self.wrapped = DistributedDataParallel(self.method, device_ids=devices)

    def flush(self) -> None:
        """Let the method write what it has gathered, if it gathers anything."""
        getattr(self.method, "flush", lambda: None)()

    def check(self, run: RunDir, epoch: int, *, weights: bool = False) -> None:
        """Stop when a loss, or what is trained, is no longer finite."""
        where = {"epoch": epoch + 1, "step": self.progress.step}
        self.totals.check_finite(**where, run=str(run.path), rescue=resume_command(run))
        if weights:
            check_state(self.method, **where, run=str(run.path), rescue=resume_command(run))

    def close_epoch(self, run: RunDir, clock: Clock) -> None:
        """Score the student when it is time, and append the epoch's row to metrics.jsonl."""
        config, progress, epoch = self.config, self.progress, self.epoch
        means = self.totals.close(self.loader.steps_per_epoch)
        scores: dict[str, float] = {}
        if self.evaluate and (epoch % evaluation_interval(config) == 0 or epoch == config.epochs):
            for trained in (self.method, self.average):  # each process has its own batch-norm statistics
                self.world.share([] if trained is None else trained.buffers())
            scores = self.evaluate(self.deliverable)
            if self.world.first and self.encode and scores.get("val_top1", -1.0) > progress.best:
                run.write_best(self.encode(self.deliverable))
            progress.best = max(progress.best, scores.get("val_top1", -1.0))
        self.world.barrier()
        if self.world.first:
            row = {"epoch": epoch, "step": progress.step, "loss": sum(means.values()), **means, **scores}
            row |= {"lr": self.optimizer.param_groups[-1]["lr"] / self.optimizer.param_groups[-1]["lr_scale"]}
            row |= {"seconds": round(clock.seconds, 2), "images_per_second": round(clock.rate, 1)}
            append_metrics(run.path, row | {"waited_for_data": round(clock.waited, 4)})
            run.update(progress={"epoch": epoch, "epochs": config.epochs})

    def save(self, run: RunDir, clock: Clock, *, keep_as: str | None) -> None:
        """Write a checkpoint; every process has to call it, the first one writes."""
        progress = self.progress
        progress.sums, progress.seconds = self.totals.agree(), clock.seconds
        if self.world.first:
            progress.scaler = self.scaler.state_dict()
            save_checkpoint(
                run,
                method=self.method,
                optimizer=self.optimizer,
                average=self.average,
                progress=progress,
                keep_as=keep_as,
            )


class _Trained(nn.Module):
    """What a method trains, without the method: its average copies neither a teacher nor a cache."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        for name, child in method.named_children():
            self.add_module(name, child)
        for name, parameter in method.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in method.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=name in method.state_dict())


def resume_command(run: RunDir) -> str:
    """What a user types to go on with a run."""
    return f"cikd {run.stage} --resume {run.path}"


def evaluation_interval(config: TrainingConfig) -> int:
    """Epochs from one evaluation to the next."""
    return config.eval_every or max(1, config.epochs // 20)


def train_step(
    trainings: Sequence[Training], batch: Batch, world: World, *, step: int, epoch: int
) -> list[dict[str, Tensor]]:
    """One optimizer step of each network on this process's share of the batch; their mean terms, detached.

    Several go through the batch together, one micro-batch after the other: what they share of one, such as the
    teacher's pass, need not be kept until the next.
    """
    parts = batch.split(trainings[0].config.accumulate)
    draws = [_begin(training, batch, world, step=step, parts=len(parts)) for training in trainings]
    means: list[dict[str, Tensor]] = [{} for _ in trainings]
    for number, part in enumerate(parts):
        share = len(part.index) / len(batch.index)
        for training, drawn, mean in zip(trainings, draws, means, strict=True):
            use_draws(training.method, drawn[number])
            if isinstance(training.wrapped, DistributedDataParallel):
                training.wrapped.require_backward_grad_sync = number == len(parts) - 1
            moment = Moment(epoch, step, training.config.seed)
            for name, term in _backward(training, part, world, share=share, moment=moment).items():
                mean[name] = mean[name] + term if name in mean else term
    for training in trainings:
        _update(training)
    return means


def _begin(training: Training, batch: Batch, world: World, *, step: int, parts: int) -> Sequence[Tensor]:
    """Set the learning rate; the drop path's numbers for each of the micro-batches, (StochasticDepths, B)."""
    config = training.config
    draws = draw(
        training.method, seed=config.seed, step=step, rows=len(batch.index), rank=world.rank, size=world.size
    ).to(world.device, non_blocking=True)
    training.method.train()
    rate = learning_rate(
        step / training.loader.steps_per_epoch,
        epochs=config.epochs,
        warmup=config.warmup,
        peak=config.lr,
        floor=config.min_lr,
    )
    set_learning_rate(training.optimizer, rate)
    return draws.chunk(parts, dim=1)


def _backward(training: Training, part: Batch, world: World, *, share: float, moment: Moment) -> dict[str, Tensor]:
    """Gradients of one micro-batch, which is `share` of the batch; its share of the terms."""
    world.moved()
    with autocast(training.precision, part.images.device):
        terms = training.wrapped(part, moment)
    world.moved()  # on to where processes wait for each other
    training.scaler.scale(sum(terms.values()) * share).backward()
    return {name: term.detach() * share for name, term in terms.items()}


def _update(training: Training) -> None:
    use_draws(training.method, None)
    with single_threaded(training.method):
        training.scaler.step(training.optimizer)
        training.scaler.update()
        training.optimizer.zero_grad(set_to_none=True)
        if training.average is not None:
            training.average.update_parameters(training.trained)
