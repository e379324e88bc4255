"""From a job to the engine's Training: networks on the device, images decoded, loader and scoring ready."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from cikd_cli.data.batch import Batch
from cikd_cli.data.decode import DecodedSplit
from cikd_cli.data.device_loader import DeviceLoader, pays
from cikd_cli.data.loader import TrainLoader, eval_batches
from cikd_cli.engine.precision import choose_attention, choose_precision
from cikd_cli.engine.predict import BEST, best_guesses, count_hits, predict
from cikd_cli.engine.step import Training
from cikd_cli.engine.tuning import compile_blocks, worth_compiling
from cikd_cli.models.frozen import teacher_of
from cikd_cli.models.weights import encode_model
from cikd_cli.processes.world import World
from cikd_cli.settings.request import RunOptions
from cikd_cli.training.images import view_law
from cikd_cli.training.job import Job


def prepare(jobs: Sequence[Job], world: World, options: RunOptions) -> list[Training]:
    """The engine's view of jobs that go together: networks on the device, images decoded, one loader, scoring."""
    first = jobs[0]
    limit = first.config.cache_mb // world.neighbours  # each process keeps its own
    decoded = DecodedSplit(first.source.train, decode_size=first.config.decode_size, limit_mb=limit)
    loader = _loader(first, decoded, world, options)
    place = f"views made on {world.device.type}, a batch at a time" if isinstance(loader, DeviceLoader) else ""
    for job in jobs if world.first else ():
        job.facts.append(("images", " · ".join(filter(None, (decoded.describe(), place)))))
    return [_training(job, loader, world) for job in jobs]


def _training(job: Job, loader: TrainLoader | DeviceLoader, world: World) -> Training:
    config = job.config
    method: Any = job.method
    precision = choose_precision(config.precision, world.device)
    choose_attention(method, precision, world.device)
    method.to(world.device)
    compiling = worth_compiling(config.compile, world.device, steps=config.epochs * loader.steps_per_epoch)
    if compiling:
        compile_blocks(method)
    elif teacher := teacher_of(job.method):
        teacher.pack()
    scored = job.method.needs.scored
    return Training(
        config,
        method,
        loader,
        precision,
        world,
        evaluate=scorer(job, world, precision) if scored else None,
        encode=(lambda network: encode_model(network, job.spec)) if scored and job.source.val is not None else None,
        compiling=compiling,
    )


def _loader(job: Job, decoded: DecodedSplit, world: World, options: RunOptions) -> TrainLoader | DeviceLoader:
    """Views made where --views says; by itself a batch at a time where that pays, on a CPU without --workers only."""
    config = job.config
    shape: dict[str, Any] = {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "two_views": job.method.needs.two_views,
        "views_per_image": job.method.needs.views_per_image,
        "rank": world.rank,
        "size": world.size,
    }
    choose = options.views == "auto" and (world.device.type != "cpu" or not options.workers)
    if options.views == "device" or (choose and pays(decoded, world.device, config.image_size)):
        return DeviceLoader(decoded, view_law(config), device=world.device, **shape)
    return TrainLoader(decoded, view_law(config), workers=options.workers, machines=world.machines, **shape)


def scorer(job: Job, world: World, precision: str) -> Callable[[nn.Module], dict[str, float]] | None:
    """Scores on the validation images, else on the test images, whose scores are shown and never chosen by.

    Each process looks at its share of them.
    """
    name, split = ("test", job.source.test) if job.source.val is None else ("val", job.source.val)
    if split is None:
        return None
    share = np.arange(world.rank, len(split), world.size)
    decoded = DecodedSplit(
        split.take(share), decode_size=job.config.decode_size, limit_mb=job.config.cache_mb // world.neighbours
    )

    def score(model: nn.Module) -> dict[str, float]:
        batches = eval_batches(decoded, job.config.image_size, batch_size=64)
        spec = job.spec
        hits = [0, 0]
        if len(decoded):
            logits, targets = predict(
                model, _telling(batches, world), mean=spec.mean, std=spec.std, device=world.device, precision=precision
            )
            hits = [count_hits(best_guesses(logits, k), targets) for k in (1, BEST)]
        top1, top5 = (100.0 * world.sum(torch.tensor(hits, device=world.device)) / len(split)).tolist()
        return {f"{name}_top1": top1, f"{name}_top5": top5}

    return score


def _telling(batches: Iterable[Batch], world: World) -> Iterator[Batch]:
    """The batches; each tells the other processes that this one has come further."""
    for batch in batches:
        world.moved()
        yield batch
