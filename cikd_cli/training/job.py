"""What a training stage builds from its config before anything is written: data, networks, method, facts to print."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cikd_cli.console import Reporter
from cikd_cli.data.sources import DataSource, load_source
from cikd_cli.data.views import ViewLaw
from cikd_cli.engine.optim import parameter_groups
from cikd_cli.errors import CikdError, listed
from cikd_cli.files import is_file
from cikd_cli.models.logit_cache import TeacherCache
from cikd_cli.models.vit import create_student
from cikd_cli.models.weights import HALF, ModelSpec, load_model
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.reading import COPY_AGAIN
from cikd_cli.settings.batch_size import fitting_batch
from cikd_cli.settings.configs import DataConfig, StudentConfig, TrainingConfig
from cikd_cli.settings.names import no_images
from cikd_cli.training.held_out import remember

WARNING = "warning"  # the label of a fact that is told as one


@dataclass
class Job:
    """A stage ready to train.

    model: the network that becomes the deliverable, inside `method`. config: with data and parents resolved.
    parents: runs this one stands on, teacher first. facts: (label, text) rows for the header. examine: a look at the
    networks that only a new run needs, told to the reporter.
    """

    config: TrainingConfig
    source: DataSource
    method: nn.Module
    model: VisionTransformer
    spec: ModelSpec
    groups: list[dict[str, Any]]
    two_views: bool = False
    views_per_image: int = 0
    teacher_cache: TeacherCache | None = None
    scored: bool = True
    parents: list[RunDir] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    examine: Callable[[Reporter], None] | None = None


def fit_batch(job: Job, processes: int) -> None:
    """Let the training images lower the batch of a job whose batch nobody has named."""
    batch = fitting_batch(job.config.batch_size, len(job.source.train), processes)
    job.config = job.config.model_copy(update={"batch_size": batch})


def view_law(config: TrainingConfig) -> ViewLaw:
    """How the views of a config are made."""
    return ViewLaw(
        image_size=config.image_size,
        crop_scale=config.crop_scale,
        interpolation=config.interpolation,
        flip=config.flip,
        jitter=config.jitter,
        augment=config.augment,
    )


def open_source(config: DataConfig, *, labelled: bool = True) -> DataSource:
    """The data of a stage; says how to name it when it is missing."""
    if config.data is None:
        raise no_images()
    return load_source(
        config.data,
        memory=remember(parents_of(config)),
        data_root=config.data_root,
        download=config.download,
        fraction=config.fraction,
        val=config.val,
        split_seed=config.split_seed,
        skip_unreadable=config.skip_unreadable,
        labelled=labelled,
    )


def parents_of(config: DataConfig) -> list[RunDir]:
    """The runs that a config stands on, teacher first; a weights file that lies in a run stands for it."""
    named = [Path(name) for key in ("teacher", "from_run") if (name := getattr(config, key, None))]
    found = [path for name in named for path in (name, name.parent) if is_file(path / "run.json") and name.exists()]
    return [RunDir.open(path) for path in dict.fromkeys(found)]


def check_same_images(config: DataConfig, source: DataSource) -> None:
    """Refuse a folder under another path than the parents' data that does not hold half of the images of any."""
    runs = [run for run in parents_of(config) if run.record.get("images")]
    if not runs or config.data in [run.record["data"]["name"] for run in runs]:
        return
    if not any(_mostly_there(run, source) for run in runs):
        raise CikdError(
            f"data {config.data} is not what {' and '.join(str(run.path) for run in runs)} was made for, "
            f"{runs[-1].record['data']['name']}",
            hint=f"cikd finetune-teacher --data {config.data} makes a teacher for it",
        )


def _mostly_there(run: RunDir, source: DataSource) -> bool:
    """Whether a source holds at least half of the images of a run's own data."""
    memory = remember([run])
    if memory is None or not source.digests:
        return False
    there = np.intersect1d(memory.own, np.concatenate(list(source.digests.values())))
    return len(there) >= len(memory.own) / 2


def open_teacher(config: StudentConfig, source: DataSource | None) -> tuple[RunDir, VisionTransformer, ModelSpec]:
    """The teacher run a config names, its network and spec; its classes and data must be those of `source`."""
    assert config.teacher is not None
    run = RunDir.open(config.teacher, stages=("finetune-teacher",))
    model, spec = load_model(run.weights)
    check_recorded_heads(run, spec)
    command = f"cikd finetune-teacher --data {config.data}"
    if spec.image_size % spec.patch_size:
        tiled = max(spec.image_size // spec.patch_size, 1) * spec.patch_size
        raise CikdError(
            f"The teacher {run.path} was trained at {spec.image_size} px, which its patches of {spec.patch_size} px do "
            "not tile; its student would see other patches.",
            hint=f"{command} --image-size {tiled}",
        )
    if source is None:
        return run, model, spec
    if spec.classes != source.classes:
        raise CikdError(
            f"The teacher {run.path} knows {spec.num_classes} classes ({listed(spec.classes)}), "
            f"{config.data} has {len(source.classes)} ({listed(source.classes)}).",
            hint=command,
        )
    if run.record["data"]["fingerprint"] != source.fingerprint and not _mostly_there(run, source):
        raise CikdError(
            f"The images of {config.data} are not those the teacher {run.path} was trained on (their fingerprints "
            f"{run.record['data']['fingerprint'][:8]}… and {source.fingerprint[:8]}… differ).",
            hint=command,
        )
    return run, model, spec


def check_recorded_heads(run: RunDir, spec: ModelSpec) -> None:
    """Refuse weights whose head list is not the one their run recorded."""
    recorded = tuple(run.record["model"].get("heads", ()))
    if recorded != spec.heads:
        raise CikdError(
            f"{run.path} records {list(recorded)} heads, its weights file says {list(spec.heads)}; "
            "the same tensors with other heads are another network.",
            hint=COPY_AGAIN,
        )


def new_student(
    config: StudentConfig, teacher: ModelSpec | None, *, classes: tuple[str, ...]
) -> tuple[VisionTransformer, ModelSpec]:
    """An untrained student made for a teacher: its heads at both ends, its patches, its normalisation."""
    mean = config.mean or (teacher.mean if teacher else HALF)
    std = config.std or (teacher.std if teacher else HALF)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        student = create_student(
            config.student,
            num_classes=len(classes),
            image_size=config.image_size,
            patch_size=teacher.patch_size if teacher else 16,
            end_heads=teacher.heads[0] if teacher else 12,
            width=config.student_width,
            depth=config.student_depth,
            heads=config.student_heads,
            drop_path=config.drop_path,
        )
    return student, ModelSpec.describe(
        student, "student", classes=classes, mean=mean, std=std, drop_path=config.drop_path
    )


def load_trunk(run: RunDir, *, classes: tuple[str, ...], drop_path: float) -> tuple[VisionTransformer, ModelSpec]:
    """The student of a run with a fresh head for `classes`, or none; the head is drawn from the global generator."""
    trained, spec = load_model(run.weights)
    check_recorded_heads(run, spec)
    spec = replace(spec, num_classes=len(classes), classes=classes, drop_path=drop_path)
    student = spec.build()
    tensors = {name: tensor for name, tensor in trained.state_dict().items() if not name.startswith("head.")}
    student.load_state_dict(student.state_dict() | tensors)
    return student, spec


def trainable_groups(
    model: VisionTransformer, config: TrainingConfig, no_decay: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Optimizer groups of a network for a config."""
    return parameter_groups(
        model,
        depth=len(model.blocks),
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        no_decay=no_decay,
    )


def data_facts(source: DataSource, config: DataConfig) -> list[tuple[str, str]]:
    """The header's rows about the images."""
    return [("data", describe_data(source, config)), *source.facts]


def tell(out: Reporter, facts: Sequence[tuple[str, str]]) -> None:
    """Print rows of a header; those that warn apart, as they are to be seen with --quiet too."""
    out.fields([(label, text) for label, text in facts if label != WARNING])
    for label, text in facts:
        if label == WARNING:
            out.warn(text)


def describe_data(source: DataSource, config: DataConfig) -> str:
    """'cifar100 · train 50,000 · test 10,000 · 100 classes · fingerprint 41d0ab12'."""
    parts = [str(source.name), f"train {len(source.train):,}"]
    parts += [f"{name} {len(split):,}" for name, split in (("val", source.val), ("test", source.test)) if split]
    if source.classes:
        parts.append(f"{len(source.classes)} classes of {_class_range(source)} training images")
    parts += [source.split, f"fingerprint {source.fingerprint[:8]}"]
    if config.fraction < 1:
        parts.insert(1, f"fraction {config.fraction:g}")
    files = sum(len(split) for split in (source.train, source.val, source.test) if split)
    if source.looked_into < files + source.skipped:
        parts.append(f"{source.looked_into:,} of the files looked into, evenly spread")
    if source.skipped:
        parts.append(f"{source.skipped} unreadable skipped")
    return " · ".join(parts)


def describe_network(spec: ModelSpec, model: VisionTransformer) -> str:
    """'12 blocks, 192-d, heads 12, 6 × 10, 12, 5.5 M'."""
    heads: list[list[int]] = []
    for count in spec.heads:
        if heads and heads[-1][0] == count:
            heads[-1][1] += 1
        else:
            heads.append([count, 1])
    listed = ", ".join(str(count) if times == 1 else f"{count} × {times}" for count, times in heads)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return f"{spec.depth} blocks, {spec.width}-d, heads {listed}, patch {spec.patch_size}, {millions:.2f} M"


def describe_teacher(run: RunDir | None, spec: ModelSpec, model: VisionTransformer) -> str:
    """As describe_network, with the run, if there is one yet, and the architecture."""
    return f"{f'{run.path}  ' if run else ''}{spec.architecture} {describe_network(spec, model)}"


def _class_range(source: DataSource) -> str:
    counts = np.bincount(source.train.labels, minlength=len(source.classes)).tolist()
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,}–{max(counts):,}"
