"""What eval, mad and cka look at: networks from runs, weights files or timm names, and the images to show them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cikd_cli.console import Reporter, reporter
from cikd_cli.data.batch import Batch
from cikd_cli.data.decode import DecodedSplit
from cikd_cli.data.loader import eval_batches
from cikd_cli.data.order import epoch_order
from cikd_cli.data.scored import NOTHING_KNOWN, scored_folder
from cikd_cli.data.sources import DataSource, Split, is_named, load_source
from cikd_cli.data.views import normalise
from cikd_cli.data.workers import auto_workers
from cikd_cli.errors import CikdError
from cikd_cli.models.pretrained import is_pretrained_name, open_pretrained, own_file
from cikd_cli.models.weights import ModelSpec, load_model
from cikd_cli.processes.world import choose_hardware
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.configs import StageConfig
from cikd_cli.settings.recipes import resolve
from cikd_cli.settings.request import Request
from cikd_cli.training.held_out import remember
from cikd_cli.training.job import tell

ConfigT = TypeVar("ConfigT", bound=StageConfig)

TEACHER = "finetune-teacher"
STAGES_WITH_WEIGHTS = (TEACHER, "ali", "lm")


@dataclass(frozen=True)
class Subject:
    """A network under study; `run` is None for a weights file or a timm name."""

    label: str
    model: VisionTransformer
    spec: ModelSpec
    run: RunDir | None = None

    @property
    def weights_sha256(self) -> str | None:
        """The hash of a run's weights."""
        return str(self.run.record["weights"]["sha256"]) if self.run else None


@dataclass(frozen=True)
class Images:
    """Images of one split, in memory if they fit. own: they are the data set of the run they were opened for."""

    source: DataSource
    split: str
    decoded: DecodedSplit
    own: bool

    def __len__(self) -> int:
        return len(self.decoded)

    def batches(self, image_size: int, batch_size: int, workers: int | None) -> Iterator[Batch]:
        """Evaluation views (docs/method.md), in order; the last batch may be short."""
        if workers is None:
            workers = auto_workers(self.decoded, image_size, batch_size=batch_size)
        return eval_batches(self.decoded, image_size, batch_size=batch_size, workers=workers)

    def describe(self) -> str:
        """'128 test images of digits'."""
        return f"{len(self):,} {self.split} images of {self.source.name}"


def begin(request: Request, config_class: type[ConfigT]) -> tuple[ConfigT, Reporter, torch.device]:
    """What every analysis starts with: its settings, who tells about it, and the device."""
    config = resolve(config_class, request.stage, request.flags, options=request.options).config
    assert isinstance(config, config_class)
    out = reporter(quiet=request.options.quiet, as_json=request.options.as_json)
    return config, out, choose_hardware(request.options.gpus).device


def find_run(name: str) -> RunDir | None:
    """The run of this path; None for a weights file or a timm name.

    Raises:
        CikdError: neither, or an unfinished, edited or foreign run.
    """
    path = Path(name)
    if path.is_file() or (not path.exists() and is_pretrained_name(name)):
        return None
    return RunDir.open(path, stages=STAGES_WITH_WEIGHTS)


def open_subject(name: str, *, image_size: int | None = None) -> Subject:
    """The network of a run, of a weights file, or of a timm name (weights from the hub or its cache).

    image_size: for a timm name or a file from elsewhere; none: the size it was pretrained at.

    Raises:
        CikdError: as `find_run`, or weights that cannot be had.
    """
    run = find_run(name)
    if run is not None:
        return open_run(run)
    own = own_file(name)
    if own is not None:
        return Subject(own.name, *load_model(own))
    found = open_pretrained(name, num_classes=0, image_size=image_size)
    spec = ModelSpec.describe(found.model, found.architecture, classes=(), mean=found.mean, std=found.std)
    return Subject(Path(name).name if Path(name).exists() else name, found.model.eval(), spec)


def open_run(run: RunDir) -> Subject:
    """The network of a run that RunDir.open let pass."""
    model, spec = load_model(run.weights)
    return Subject(str(run.path), model, spec, run)


def teacher_of(run: RunDir) -> RunDir | None:
    """The teacher a run descends from; None if it has none. Raises CikdError if it is gone or was made again."""
    return run.parent(TEACHER) if run.has_ancestor(TEACHER) else None


def open_images(
    run: RunDir | None,
    *,
    data: str | None,
    data_root: str | None,
    split: str = "test",
    labelled: bool,
    out: Reporter,
    most: int | None = None,
) -> Images:
    """Images as the run's own config reads them, or of another data set.

    data, data_root: what the user typed; none: the run's own.
    split: "test", "val" or "train"; without labels, a folder that has no test images gives its train images.
    most: take so many images, drawn without order or class (the same each time); none: all.

    Raises:
        CikdError: no data named, data that cannot be read, or a split that is not there.
    """
    config = run.config() if run else {}
    own = str(run.record["data"]["name"]) if run else None
    name = data or own
    if name is None:
        raise CikdError("Which images?", hint="--data digits, another named set, or a folder of images")
    source, is_own = _source(run, name, own, data_root=data_root, split=split, labelled=labelled)
    tell(out, source.facts)
    found = {"test": source.test, "val": source.val, "train": source.train}[split]
    if found is None and not labelled:
        split, found = "train", source.train
    if found is None:
        raise CikdError(f"{name} has no {split} images.", hint="--split train, or another --data")
    decoded = DecodedSplit(
        _sample(found, most), decode_size=config.get("decode_size", 0), limit_mb=config.get("cache_mb", 4096)
    )
    return Images(source, split, decoded, is_own)


def normalised(batches: Iterator[Batch], spec: ModelSpec, device: torch.device) -> Iterator[Tensor]:
    """The images of batches as a network wants them, (B, 3, H, W) float32 on the device."""
    for batch in batches:
        yield normalise(batch.images.to(device, non_blocking=True), spec.mean, spec.std)


def watched(batches: Iterator[Batch], out: Reporter, *, total: int, text: str) -> Iterator[Batch]:
    """The same batches, with a progress bar over `total` images."""
    with out.progress(total) as bar:
        done = 0
        for batch in batches:
            yield batch
            done += len(batch.images)
            bar.update(done, text)


def _source(
    run: RunDir | None, name: str, own: str | None, *, data_root: str | None, split: str, labelled: bool
) -> tuple[DataSource, bool]:
    """The data set `name` as a run may be looked at on it, and whether it is the run's own."""
    config = run.config() if run else {}
    skip = config.get("skip_unreadable", False)
    is_own = own is not None and (name == own or Path(name).resolve() == Path(own))
    if is_named(name):
        division = {key: config[key] for key in ("fraction", "val", "split_seed") if key in config} if is_own else {}
        root = data_root or config.get("data_root", "data")
        source = load_source(name, data_root=root, download=False, skip_unreadable=skip, labelled=labelled, **division)
        return source, is_own
    memory = remember([run]) if run else None
    classes = run.record["model"].get("classes", ()) if run else ()
    return scored_folder(
        name,
        memory or NOTHING_KNOWN,
        own=is_own and memory is not None,
        split=split,
        classes=classes,
        labelled=labelled,
        skip_unreadable=skip,
    )


def _sample(split: Split, most: int | None) -> Split:
    """`most` images in random order: a folder is sorted by class, and its first images are of one class."""
    return split if most is None else split.take(epoch_order(0, 0, len(split))[:most])
