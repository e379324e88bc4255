"""Batches of views made image by image, in worker processes where that pays."""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cikd_cli.data.batch import Batch
from cikd_cli.data.decode import DecodedSplit
from cikd_cli.data.order import Item, Steps
from cikd_cli.data.views import Pixels, ViewLaw, evaluation_view, uniform_row, uniforms, view_epoch, views
from cikd_cli.data.workers import PREFETCH, auto_workers, start_worker
from cikd_cli.errors import CikdError

_TABLE = 200_000  # rows of random numbers that each worker keeps; of a larger set it makes them one by one

Pair = tuple[Pixels, Pixels | None]  # the student's view, the teacher's
_Make = Callable[[Image.Image, int, int], Pair]  # image, epoch, index


class TrainLoader:
    """Training batches of one process.

    batch_size: global, shared out by `Steps`, whose errors it raises.
    A step's content depends on (seed, step) only: not on workers, on where iteration began, nor on `size`.
    views_per_image: epochs after which the views, not the order, come again; 0: never.
    workers: processes that make views; none: `auto_workers`. They persist between calls of `batches`.
    machines: over which the `size` processes are spread.
    """

    def __init__(
        self,
        decoded: DecodedSplit,
        law: ViewLaw,
        *,
        batch_size: int,
        seed: int,
        two_views: bool,
        views_per_image: int = 0,
        rank: int = 0,
        size: int = 1,
        machines: int = 1,
        workers: int | None = None,
    ) -> None:
        count = len(decoded)
        self._steps = Steps(seed, count, batch_size, rank, size)
        self.steps_per_epoch = self._steps.per_epoch
        if workers is None:
            workers = auto_workers(
                decoded,
                law.image_size,
                batch_size=batch_size // size,
                views=1 + two_views,
                processes=max(1, size // machines),
            )
        self.workers = workers
        make = _TrainingView(law, seed, count, two_views, views_per_image)
        self._loader = _data_loader(_Views(decoded, make), self._steps, workers)

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Steps start_step..stop_step-1, counted over all epochs; one iteration at a time."""
        self._steps.span = (start_step, stop_step)
        yield from _iterate(self._loader)


def eval_batches(decoded: DecodedSplit, image_size: int, *, batch_size: int, workers: int = 0) -> Iterator[Batch]:
    """A split in order, without augmentation; the last batch may be short."""
    chunks = [
        [(0, index) for index in range(start, min(start + batch_size, len(decoded)))]
        for start in range(0, len(decoded), batch_size)
    ]
    yield from _iterate(_data_loader(_Views(decoded, partial(_evaluation_view, image_size)), chunks, workers))


class _Views(Dataset[Batch]):
    """Whole batches of what `make` makes of an image; the DataLoader calls `__getitems__` with one step's items.

    An unreadable file comes back as its error, which would lose its hint if it were raised in a worker.
    """

    def __init__(self, decoded: DecodedSplit, make: _Make) -> None:
        self._decoded, self._make = decoded, make

    def __getitems__(self, items: Sequence[Item]) -> Batch | CikdError:
        try:
            pairs = [self._make(self._decoded.image(index), epoch, index) for epoch, index in items]
        except CikdError as error:
            return error
        teacher = [pair[1] for pair in pairs if pair[1] is not None]
        index = np.array([index for _, index in items], dtype=np.int64)
        return Batch(
            _stacked([pair[0] for pair in pairs]),
            torch.from_numpy(self._decoded.labels[index]),
            _stacked(teacher) if teacher else None,
            torch.from_numpy(index),
        )


class _TrainingView:
    """The views of the law; the table of random numbers is made once an epoch in each worker."""

    def __init__(self, law: ViewLaw, seed: int, count: int, two_views: bool, views_per_image: int) -> None:
        self._law, self._seed, self._count, self._two_views = law, seed, count, two_views
        self._views_per_image = views_per_image
        self._epoch, self._table = -1, np.empty((0, 0))

    def __call__(self, image: Image.Image, epoch: int, index: int) -> Pair:
        epoch = view_epoch(epoch, self._views_per_image)
        if self._count > _TABLE:
            row = uniform_row(self._seed, epoch, index)
        else:
            if epoch != self._epoch:
                self._epoch, self._table = epoch, uniforms(self._seed, epoch, self._count)
            row = self._table[index]
        return views(image, row, self._law, two=self._two_views)


def _evaluation_view(image_size: int, image: Image.Image, epoch: int, index: int) -> Pair:  # noqa: ARG001
    return evaluation_view(image, image_size), None


def _stacked(pixels: list[Pixels]) -> Tensor:
    """(H, W, 3) arrays to (B, 3, H, W) bytes."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def _data_loader(dataset: Dataset[Batch], steps: Any, workers: int) -> DataLoader[Batch]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of more workers than cores; the user asked for them
        return DataLoader(
            dataset,
            batch_sampler=steps,
            collate_fn=_identity,
            num_workers=workers,
            worker_init_fn=start_worker,
            prefetch_factor=PREFETCH if workers else None,
            persistent_workers=workers > 0,
            # fork shares the decoded images; macOS and Windows cannot
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else each iteration draws from the global one, and a resumed run differs
        )


def _iterate(loader: DataLoader[Batch]) -> Iterator[Batch]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of fork beside threads; ours are idle
        iterator = iter(loader)
    for made in iterator:
        if isinstance(made, CikdError):
            try:
                raise made
            finally:
                del made  # else error, traceback and this frame form a cycle that keeps the workers alive
        yield made


def _identity(batch: Any) -> Any:
    return batch
