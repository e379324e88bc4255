"""What a stage will cost on this machine, from a few of its own steps that are timed and then forgotten."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cikd_cli.analysis import count
from cikd_cli.console import Reporter
from cikd_cli.data.batch import Batch
from cikd_cli.data.decode import MIB, DecodedSplit
from cikd_cli.data.sources import DataSource, Split
from cikd_cli.engine.precision import autocast, choose_precision
from cikd_cli.engine.step import Training, evaluation_interval, train_step
from cikd_cli.engine.tuning import worth_compiling
from cikd_cli.methods import Moment
from cikd_cli.models.network import patch_size
from cikd_cli.models.weights import encode_model
from cikd_cli.processes.world import Hardware, World
from cikd_cli.settings.patches import STUDENT_PATCH
from cikd_cli.settings.request import RunOptions
from cikd_cli.text import duration
from cikd_cli.training import header
from cikd_cli.training.job import Job
from cikd_cli.training.prepare import prepare, scorer

TIMED = 20  # steps at most, behind a first one that lays things out
ENOUGH = 1.0  # seconds of them
CPU_PIXELS = 4 * 224**2  # of a batch: on a CPU the pace hardly depends on it, and a step should take seconds
SLOWEST = 5e9  # floating-point operations a second: a machine has more, unless networks are tiny
SHORT = 600.0  # seconds that are not worth foretelling
SPARE = 1.4  # times the counted memory: as in bench/measure


@dataclass(frozen=True)
class Cost:
    """Of one stage. memory_mib: on a GPU measured, else counted; disk_mib: weights and two checkpoints of them."""

    steps: int
    seconds: float
    memory_mib: int
    disk_mib: float


def cost_of(job: Job, hardware: Hardware, options: RunOptions, *, resident: int) -> Cost:
    """What a stage costs whose job is thrown away afterwards; resident: bytes that the process held before it."""
    disk = _disk_mib([job])
    if hardware.gpus:
        teacher, before = job.method.teacher, torch.cuda.memory_allocated(hardware.device)
        torch.cuda.reset_peak_memory_stats(hardware.device)
        seconds = seconds_of([job], hardware, options)
        memory = header.peak_memory(hardware) - before + (_bytes(teacher.network) if teacher else 0)
        module(job).to("cpu")
    else:
        memory = resident + _counted_bytes(job, hardware)
        seconds = seconds_of([job], hardware, options)
    return Cost(steps_of(job), round(seconds, 1), round(memory / MIB), disk)


def roughly(seconds: float) -> str:
    """As an estimate deserves: `about 31 h`, `about 3 h 10 min`, `about 13 min`, `about 40 s`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if minutes < 90:
        return f"about {minutes} min"
    if minutes < 600:
        return f"about {minutes // 60} h {minutes % 60 // 10 * 10:02d} min"
    return f"about {round(seconds / 3600):,} h"


def steps_of(job: Job) -> int:
    """Optimizer steps of a job's whole run."""
    return job.config.epochs * (len(job.source.train) // job.config.batch_size)


def worth_foretelling(jobs: Sequence[Job], hardware: Hardware, options: RunOptions) -> bool:
    """Whether jobs which go together may take long, on a CPU, and somebody sees it.

    Compiled networks and a teacher's cache would not be after a rehearsal what they were before.
    """
    if hardware.gpus or hardware.joined is not None or options.quiet:
        return False
    if jobs[0].config.compile or jobs[0].method.needs.memory:
        return False
    return sum(map(_work, jobs)) > SLOWEST * SHORT


def seconds_of(jobs: Sequence[Job], hardware: Hardware, options: RunOptions) -> float:
    """Seconds that jobs which go together will take, their evaluations included; their weights stay as they are."""
    weights = [{name: tensor.clone() for name, tensor in module(job).state_dict().items()} for job in jobs]
    config = jobs[0].config
    batch = config.batch_size // hardware.processes
    images = batch if hardware.gpus else max(1, min(batch, CPU_PIXELS // config.image_size**2))
    alone = World(hardware.device)
    if not hardware.gpus:
        options = options.model_copy(update={"workers": 0})  # they would take the cores that the step has
    trainings = prepare([_few(job, images, hardware) for job in jobs], alone, options)
    share = config.batch_size / images / hardware.machines if not hardware.gpus else 1.0  # of processes on one CPU
    seconds = pace(trainings, hardware) * share * steps_of(jobs[0])
    seconds += sum(evaluation_seconds(job, hardware, images) for job in jobs)
    for job, tensors in zip(jobs, weights, strict=True):
        module(job).load_state_dict(tensors)
    return seconds


def pace(trainings: Sequence[Training], hardware: Hardware) -> float:
    """Seconds of a step on this process's share: the median of some behind the first one."""
    training, alone, seconds = trainings[0], World(hardware.device), []
    begun = time.monotonic()
    for step, batch in enumerate(training.loader.batches(0, TIMED + 1)):
        train_step(trainings, batch.to(hardware.device), alone, step=step, epoch=training.config.epochs)
        if hardware.gpus:
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - begun)
        begun = time.monotonic()
        if sum(seconds[1:]) > ENOUGH:
            break
    return statistics.median(seconds[1:])


def evaluation_seconds(job: Job, hardware: Hardware, images: int) -> float:
    """Seconds of all evaluations of a run, from one of so many images."""
    split = job.source.test if job.source.val is None else job.source.val
    if split is None or not job.method.needs.scored:
        return 0.0
    config = job.config
    few = replace(job, source=_few_images(job.source, images))
    score = scorer(few, World(hardware.device), choose_precision(config.precision, hardware.device))
    assert score is not None
    begun = time.monotonic()
    score(job.method.student)
    seconds = time.monotonic() - begun
    times = math.ceil(config.epochs / evaluation_interval(config))
    return seconds / min(images, len(split)) * len(split) / hardware.processes * times


def dry_run(jobs: Sequence[Job], trainings: Sequence[Training], hardware: Hardware, out: Reporter) -> dict[str, Any]:
    """Two steps or more and the plan: time, memory and disk; nothing is written."""
    training = trainings[0]
    seconds = pace(trainings, hardware) * training.steps
    few = max(1, CPU_PIXELS // training.config.image_size**2)
    seconds += sum(evaluation_seconds(job, hardware, few) for job in jobs)
    memory = round(header.peak_memory(hardware) / MIB)
    cost = Cost(training.steps, round(seconds, 1), memory, _disk_mib(jobs))
    out.fields([
        ("plan", f"about {duration(cost.seconds)} of training on {hardware}"),
        ("", f"{cost.memory_mib:,} MiB of memory at most so far, {cost.disk_mib:,} MiB on disk"),
        ("dry run", "two steps went well; nothing was written"),
    ])  # fmt: skip
    return {"run": None, "status": "dry-run", "plan": asdict(cost)}


def _few(job: Job, images: int, hardware: Hardware) -> Job:
    """The job on so many images a step; on a CPU of a few images, decoded once or in every step as all will be."""
    config, source = job.config, job.source
    compiled = worth_compiling(config.compile, hardware.device, steps=steps_of(job))
    changed: dict[str, Any] = {"batch_size": images, "compile": compiled}
    if not hardware.gpus:
        source = _few_images(source, 2 * images)
        if _decoded_bytes(source.train, config.decode_size) / len(source.train) * len(job.source.train) > _room(job):
            changed["cache_mb"] = 0
    return replace(job, config=config.model_copy(update=changed), source=source, facts=[])


def _few_images(source: DataSource, images: int) -> DataSource:
    def few(split: Split | None) -> Split | None:
        return split and split.take(np.unique(np.linspace(0, len(split) - 1, images).astype(np.int64)))

    train = few(source.train)
    assert train is not None
    return replace(source, train=train, val=few(source.val), test=few(source.test))


def _decoded_bytes(split: Split, decode_size: int) -> int:
    return DecodedSplit(split, decode_size=decode_size, limit_mb=0).nbytes


def _room(job: Job) -> int:
    return job.config.cache_mb * MIB


def _work(job: Job) -> float:
    """About the operations of a run: two for each weight and token in a pass, and two more passes for gradients."""
    teacher = job.method.teacher
    tokens = (job.spec.image_size // (patch_size(job.method.student) or STUDENT_PATCH)) ** 2 + 1
    weights = 3 * _size(job.method.student) + (_size(teacher.network) if teacher else 0)
    return 2.0 * weights * tokens * steps_of(job) * job.config.batch_size


def module(job: Job) -> torch.nn.Module:
    """The method of a job, as what it is: a module."""
    assert isinstance(job.method, torch.nn.Module)
    return job.method


def _size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _bytes(network: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def _counted_bytes(job: Job, hardware: Hardware) -> int:
    """What training on a CPU holds, over all processes: networks, moments, decoded images, and the counted step."""
    config = job.config
    images = max(1, config.batch_size // hardware.processes // config.accumulate)
    teacher = job.method.teacher
    networks = 4 * (_size(module(job)) * (4 if config.ema else 3) + (_size(teacher.network) if teacher else 0))
    step = SPARE * count.peak_bytes([job.method], lambda method: blank_loss(job, method, images))
    sample = _few_images(job.source, 16).train
    decoded = _decoded_bytes(sample, config.decode_size) / len(sample) * len(job.source.train)
    return round(hardware.processes * (networks + step) + (decoded if decoded <= _room(job) else 0))


def blank_loss(job: Job, method: Any, images: int) -> Tensor:
    """The loss of so many blank images on the CPU, the teacher at its full weight; method: the job's, or a copy."""
    config = job.config
    views = torch.zeros(images, 3, config.image_size, config.image_size, dtype=torch.uint8)
    places = torch.zeros(images, dtype=torch.int64)
    batch = Batch(views, places, torch.zeros_like(views) if job.method.needs.two_views else None, places)
    cpu = torch.device("cpu")
    with autocast(choose_precision(config.precision, cpu), cpu):
        terms: dict[str, Tensor] = method.train()(batch, Moment(config.epochs))
        return torch.stack(list(terms.values())).sum()


def _disk_mib(jobs: Sequence[Job]) -> float:
    """Weights, and two checkpoints of weights and two moments."""
    return round(sum(len(encode_model(job.method.student, job.spec)) for job in jobs) * 7 / MIB, 1)
