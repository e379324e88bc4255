"""An analysis of finished networks: its settings, the images that it shows them, and the files that it leaves.

eval, mad and cka go the same way: `begin`, find runs, `open_images`, measure, save, draw, print a table, `finish`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from cikd_cli.console import Reporter, reporter
from cikd_cli.data.batch import Batch
from cikd_cli.data.decode import DecodedSplit
from cikd_cli.data.loader import eval_batches
from cikd_cli.data.order import epoch_order
from cikd_cli.data.scored import NOTHING_KNOWN, scored_folder
from cikd_cli.data.sources import DataSource, is_named, load_source
from cikd_cli.data.views import normalise
from cikd_cli.data.workers import auto_workers
from cikd_cli.errors import CikdError
from cikd_cli.processes.world import choose_hardware
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.configs import DataConfig
from cikd_cli.settings.knob import Role, knobs_with
from cikd_cli.settings.recipes import resolve
from cikd_cli.settings.request import Request
from cikd_cli.settings.stages import STAGES
from cikd_cli.stages.subjects import Subject
from cikd_cli.training.held_out import remember
from cikd_cli.training.images import tell


class AnalysisConfig(Protocol):
    """What every analysis of images can be told."""

    data: str | None
    data_root: str | None
    batch_size: int


ConfigT = TypeVar("ConfigT", bound=AnalysisConfig)


@dataclass(frozen=True)
class Images:
    """Images of one split, in memory if they fit, and how networks are shown them.

    owner: the run whose own data set they are, if they were opened for it.
    """

    source: DataSource
    split: str
    decoded: DecodedSplit
    owner: RunDir | None
    batch_size: int
    workers: int | None
    out: Reporter

    def __len__(self) -> int:
        return len(self.decoded)

    def batches(self, subject: Subject, *, shown: bool = True) -> Iterator[Batch]:
        """Evaluation views (docs/method.md), in order, with a progress bar; the last batch may be short."""
        size, workers = subject.spec.image_size, self.workers
        if workers is None:
            workers = auto_workers(self.decoded, size, batch_size=self.batch_size)
        batches = eval_batches(self.decoded, size, batch_size=self.batch_size, workers=workers)
        if not shown:
            yield from batches
            return
        with self.out.progress(len(self)) as bar:
            for number, batch in enumerate(batches, start=1):
                yield batch
                bar.update(min(number * self.batch_size, len(self)), subject.label)

    def inputs(self, subject: Subject, device: torch.device, *, shown: bool = True) -> Iterator[Tensor]:
        """The same as the network wants them, (B, 3, H, W) float32 on the device."""
        for batch in self.batches(subject, shown=shown):
            yield normalise(batch.images.to(device, non_blocking=True), subject.spec.mean, subject.spec.std)

    def describe(self) -> str:
        """'128 test images of digits'."""
        return f"{len(self):,} {self.split} images of {self.source.name}"


@dataclass(frozen=True)
class Analysis(Generic[ConfigT]):
    """What an analysis was told, who tells about it, and where its networks are put."""

    config: ConfigT
    out: Reporter
    device: torch.device
    workers: int | None

    def open_images(
        self, run: RunDir | None, *, split: str = "test", labelled: bool = False, most: int | None = None
    ) -> Images:
        """Images as the run's own config reads them, or those of --data.

        split: "test", "val" or "train"; without labels, a folder that has no test images gives its train images.
        most: take so many images, drawn without order or class (the same each time); none: all.

        Raises:
            CikdError: no data named, data that cannot be read, or a split that is not there.
        """
        name = self.config.data or (run.record.data.name if run else None)
        if name is None:
            raise CikdError("Which images?", hint="--data digits, another named set, or a folder of images")
        source, is_own = _source(run, name, data_root=self.config.data_root, split=split, labelled=labelled)
        tell(self.out, source.facts)
        found = {"test": source.test, "val": source.val, "train": source.train}[split]
        if found is None and not labelled:
            split, found = "train", source.train
        if found is None:
            raise CikdError(f"{name} has no {split} images.", hint="--split train, or another --data")
        if most is not None:
            if len(found) < most:
                self.out.warn(f"there are only {len(found):,} {split} images, not {most:,}")
            found = found.take(epoch_order(0, 0, len(found))[:most])  # a folder's first images are of one class
        config = run.config() if run else {}
        decoded = DecodedSplit(found, decode_size=config.get("decode_size", 0), limit_mb=config.get("cache_mb", 4096))
        size = min(self.config.batch_size, len(found))
        return Images(source, split, decoded, run if is_own else None, size, self.workers, self.out)

    def finish(self, summary: dict[str, Any], *files: Path) -> dict[str, Any]:
        """Say where the pictures are; the summary for --json, with all files."""
        self.out.fields([("pictures", "  ".join(str(file) for file in files if file.suffix != ".json"))])
        return summary | {"files": [str(file) for file in files]}


def begin(request: Request, config_class: type[ConfigT]) -> Analysis[ConfigT]:
    """What every analysis starts with; a wrong setting is told before anything is opened."""
    options = request.options
    config = resolve(STAGES[request.stage].config, request.stage, request.flags, options=options).config
    assert isinstance(config, config_class)
    out = reporter(quiet=options.quiet, as_json=options.as_json)
    return Analysis(config, out, choose_hardware(options.gpus).device, options.workers)


def _source(
    run: RunDir | None, name: str, *, data_root: str | None, split: str, labelled: bool
) -> tuple[DataSource, bool]:
    """The data set `name` as a run may be looked at on it, and whether it is the run's own."""
    config = run.config() if run else {}
    own = run.record.data.name if run else None
    skip = config.get("skip_unreadable", False)
    is_own = own is not None and (name == own or Path(name).resolve() == Path(own))
    if is_named(name):
        division = {key: config[key] for key in knobs_with(DataConfig, Role.IMAGES) if key in config} if is_own else {}
        division |= {"data_root": data_root or config.get("data_root", "data"), "skip_unreadable": skip}
        division.pop("data", None)
        return load_source(name, download=False, labelled=labelled, **division), is_own
    memory = remember([run]) if run else None
    return scored_folder(
        name,
        memory or NOTHING_KNOWN,
        own=is_own and memory is not None,
        split=split,
        classes=tuple(run.record.model.classes) if run else (),
        labelled=labelled,
        skip_unreadable=skip,
    )
