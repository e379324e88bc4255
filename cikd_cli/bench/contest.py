"""The entrants of `cikd bench`: the authors' step, and ours as a run would take it, on random weights and images."""

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from cikd_cli.bench.config import Stage
from cikd_cli.bench.measure import Contest
from cikd_cli.bench.networks import Case, build_job, build_rival, noise
from cikd_cli.bench.reference import load_reference
from cikd_cli.bench.timing import Act
from cikd_cli.bench.work import random_taps, relation_losses, relation_work, step_work, tap_shapes
from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.engine.optim import parameter_groups
from cikd_cli.engine.precision import DTYPES, autocast, choose_precision
from cikd_cli.engine.step import Training, train_step
from cikd_cli.engine.totals import Totals
from cikd_cli.models.logit_cache import TeacherCache
from cikd_cli.models.spec import HALF
from cikd_cli.processes.world import World
from cikd_cli.settings.request import RunOptions
from cikd_cli.training.prepare import prepare


def step_contest(case: Case, stage: Stage, device: torch.device) -> Contest:
    """One optimizer step of a stage. "cached": with --teacher-cache, when it knows the views already."""
    training = _training(case, stage, device)
    batch = next(training.loader.batches(0, 1)).to(device)
    entrants: dict[str, Act] = {"reference": _reference_step(case, stage, training, batch, device)}
    entrants["tool"] = _own_step(training, batch, device)
    if stage == "lm":
        entrants["cached"] = _own_step(_with_full_cache(case, batch, device), batch, device)
    return Contest(stage, len(batch.index), entrants, step_work(case, stage, training.precision, device))


def relation_contest(case: Case, device: torch.device) -> Contest:
    """The loss of one pair of blocks, QK and VV, forward and backward, on taps of the step's shapes and type."""
    precision = choose_precision(case.ali.precision, device)
    teacher, student = random_taps(tap_shapes(case), case.ali.batch_size, precision, device)

    def act(loss: Callable[..., Tensor]) -> None:
        for x in student:
            x.grad = None
        with autocast(precision, device):
            total = loss(teacher, student)
        torch.autograd.backward(total)

    entrants: dict[str, Act] = {name: partial(act, loss) for name, loss in relation_losses().items()}
    return Contest("relation-kl", case.ali.batch_size, entrants, relation_work(case, precision))


def views_contest(case: Case, stage: Stage, device: torch.device) -> Contest:
    """One batch of views in one process: floats, as the reference feeds them, against the bytes that a step takes.

    The tool makes them as a run would: a batch at a time on a GPU, or of small images, else image by image.
    """
    rival, config = load_reference(), case.stage(stage)
    view = rival.AliViews(config.image_size) if stage == "ali" else rival.LmViews(config.image_size)
    images = list(noise(case, config.batch_size).train.items)
    loader = _training(case, stage, device).loader
    steps = count()

    def tool() -> object:
        step = next(steps)
        return list(loader.batches(step, step + 1))

    return Contest(
        f"views {stage}", config.batch_size, {"reference": partial(rival.collate, view, images), "tool": tool}, {}
    )


def _training(case: Case, stage: Stage, device: torch.device) -> Training:
    """The engine's view of a run on random images, made as every run's is."""
    return prepare([build_job(case, stage, device)], World(device), RunOptions(workers=0))[0]


def _with_full_cache(case: Case, batch: Batch, device: torch.device) -> Training:
    """A run whose cache knows the batch; its folder is gone as soon as that is in memory."""
    training = _training(case, "lm", device)
    method: Any = training.method
    with TemporaryDirectory() as folder:
        method.cache = TeacherCache(Path(folder), {}, images=len(batch.index), classes=case.num_classes)
        seen = (normalise(batch.images, HALF, HALF), batch.index, training.config.epochs)
        method.teacher_logits(*seen)
        method.cache.flush()
        method.teacher_logits(*seen)  # which reads what was written
    return training


def _own_step(training: Training, batch: Batch, device: torch.device) -> Act:
    """`fit`'s step, with its sums, and on a CPU with its look at them."""
    totals, steps, world = Totals({}, World(device)), count(), World(device)
    epoch = training.config.epochs  # the teacher has its full weight

    def act() -> None:
        step = next(steps) % training.steps
        totals.add(train_step([training], batch, world, step=step, epoch=epoch)[0])
        if device.type == "cpu":
            totals.check_finite(epoch=epoch, step=step, rescue="cikd bench")

    return act


def _reference_step(case: Case, stage: Stage, training: Training, batch: Batch, device: torch.device) -> Act:
    """On the same images and weights, in the same precision."""
    rival = load_reference()
    config = case.stage(stage)
    student, teacher = (vit.to(device) for vit in build_rival(case, stage))
    inputs = [normalise(batch.images, HALF, HALF)]
    if stage == "ali":
        assert batch.teacher_images is not None
        inputs.append(normalise(batch.teacher_images, HALF, HALF))
        terms = partial(rival.ali_terms, student, teacher, lob=case.lob)
    else:
        inputs.append(batch.targets)
        terms = partial(rival.lm_terms, student, teacher, smoothing=case.lm.smoothing)
    step = rival.Step(
        terms,
        parameter_groups(
            student.train(),
            student,
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay,
            token_decay=training.method.needs.token_decay,
        ),
        betas=config.betas,
        dtype=DTYPES[training.precision],
        device=device,
    )
    return partial(step, *inputs, lr=config.lr)
