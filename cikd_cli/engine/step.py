"""One optimizer step of the networks under training, whatever the stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cikd_cli.data.batch import Batch
from cikd_cli.data.device_loader import DeviceLoader
from cikd_cli.data.loader import TrainLoader
from cikd_cli.engine.optim import create_optimizer, learning_rate, set_learning_rate, single_threaded
from cikd_cli.engine.precision import autocast
from cikd_cli.models.drop_path import draw, use_draws
from cikd_cli.processes.world import World
from cikd_cli.settings.configs import TrainingConfig


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
            use_draws(training.model, drawn[number])
            if isinstance(training.method, DistributedDataParallel):
                training.method.require_backward_grad_sync = number == len(parts) - 1
            for name, term in _backward(training, part, world, share=share, epoch=epoch).items():
                mean[name] = mean[name] + term if name in mean else term
    for training in trainings:
        _update(training)
    return means


def _begin(training: Training, batch: Batch, world: World, *, step: int, parts: int) -> Sequence[Tensor]:
    """Set the learning rate; the drop path's numbers for each of the micro-batches, (StochasticDepths, B)."""
    config = training.config
    draws = draw(
        training.model, seed=config.seed, step=step, rows=len(batch.index), rank=world.rank, size=world.size
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


def _backward(training: Training, part: Batch, world: World, *, share: float, epoch: int) -> dict[str, Tensor]:
    """Gradients of one micro-batch, which is `share` of the batch; its share of the terms."""
    world.moved()
    with autocast(training.precision, part.images.device):
        terms = training.method(part, epoch)
    world.moved()  # on to where processes wait for each other
    training.scaler.scale(sum(terms.values()) * share).backward()
    return {name: term.detach() * share for name, term in terms.items()}


def _update(training: Training) -> None:
    use_draws(training.model, None)
    with single_threaded(training.model):
        training.scaler.step(training.optimizer)
        training.scaler.update()
        training.optimizer.zero_grad(set_to_none=True)
        if training.average is not None:
            training.average.update_parameters(training.model)
