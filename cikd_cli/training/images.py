"""The images of a stage: opened as the runs before it have divided them, and told of in the header."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cikd_cli.console import Reporter
from cikd_cli.data.sources import DataSource, load_source
from cikd_cli.data.views import ViewLaw
from cikd_cli.errors import CikdError
from cikd_cli.files import is_file
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.configs import DataConfig, TrainingConfig
from cikd_cli.settings.knob import parent_knobs
from cikd_cli.settings.names import no_images
from cikd_cli.settings.stages import TEACHER
from cikd_cli.training.held_out import remember

WARNING = "warning"  # the label of a fact that is told as one


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
    knobs = {TEACHER, *(key for key, _ in parent_knobs(type(config)))}
    named = [Path(name) for key in sorted(knobs, reverse=True) if (name := getattr(config, key, None))]
    found = [path for name in named for path in (name, name.parent) if is_file(path / "run.json") and name.exists()]
    return [RunDir.open(path) for path in dict.fromkeys(found)]


def check_same_images(config: DataConfig, source: DataSource) -> None:
    """Refuse a folder under another path than the parents' data that does not hold half of the images of any."""
    runs = [run for run in parents_of(config) if run.record.images]
    if not runs or config.data in [run.record.data.name for run in runs]:
        return
    if not any(mostly_there(run, source) for run in runs):
        raise CikdError(
            f"data {config.data} is not what {' and '.join(str(run.path) for run in runs)} was made for, "
            f"{runs[-1].record.data.name}",
            hint=f"cikd finetune-teacher --data {config.data} makes a teacher for it",
        )


def mostly_there(run: RunDir, source: DataSource) -> bool:
    """Whether a source holds at least half of the images of a run's own data."""
    memory = remember([run])
    if memory is None or not source.digests:
        return False
    there = np.intersect1d(memory.own, np.concatenate(list(source.digests.values())))
    return len(there) >= len(memory.own) / 2


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


def _class_range(source: DataSource) -> str:
    counts = np.bincount(source.train.labels, minlength=len(source.classes)).tolist()
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,}–{max(counts):,}"
