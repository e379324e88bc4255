"""Batches of views made whole, on the device where the decoded images stay: nothing but row numbers goes there."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cikd_cli.data.batch import Batch
from cikd_cli.data.batched import batched_views
from cikd_cli.data.decode import DecodedSplit
from cikd_cli.data.order import Steps
from cikd_cli.data.views import ViewLaw, uniforms, view_epoch

SHARE = 0.25  # of a GPU's free memory that decoded images may take without being asked
SMALL = 32  # pixels; up to here a CPU makes a batch of views 0.8 to 3.8 times as fast as image by image


def pays(decoded: DecodedSplit, device: torch.device, image_size: int) -> bool:
    """Whether views are better made a batch at a time: on a GPU if the images fit beside the networks and what they
    compute, on a CPU if they are small.
    """
    if not decoded.in_memory:
        return False
    if device.type == "cpu":
        return image_size <= SMALL and decoded.nbytes <= len(decoded) * 3 * SMALL**2
    free, _ = torch.cuda.mem_get_info(device)
    return decoded.nbytes <= SHARE * free


class DeviceLoader:
    """The batches of TrainLoader, byte for byte, made on `device`; the split has to be in memory."""

    workers = 0

    def __init__(
        self,
        decoded: DecodedSplit,
        law: ViewLaw,
        *,
        device: torch.device,
        batch_size: int,
        seed: int,
        two_views: bool,
        views_per_image: int = 0,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self._steps = Steps(seed, len(decoded), batch_size, rank, size)
        self.steps_per_epoch = self._steps.per_epoch
        self._labels, self._law, self._two_views = decoded.labels, law, two_views
        self._seed, self._views_per_image = seed, views_per_image
        self._device, self._pixels = device, decoded.pixels()
        self._images: Tensor | list[Tensor] | None = None

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Steps start_step..stop_step-1, counted over all epochs."""
        self._steps.span = (start_step, stop_step)
        if self._images is None:  # not in __init__: a parent of several processes makes a loader, and trains nothing
            self._images = _resident(self._pixels, self._device)
        shown, table = -1, np.empty((0, 0))
        for items in self._steps:
            epoch = view_epoch(items[0][0], self._views_per_image)
            if epoch != shown:
                shown, table = epoch, uniforms(self._seed, epoch, len(self._labels))
            yield self._batch(self._images, np.array([index for _, index in items], dtype=np.int64), table)

    def _batch(self, held: Tensor | list[Tensor], index: NDArray[np.int64], table: NDArray[np.float64]) -> Batch:
        images: Tensor | list[Tensor]
        if isinstance(held, list):
            images = [held[i].movedim(-1, 0) for i in index.tolist()]
        else:
            images = held.index_select(0, torch.from_numpy(index).to(held.device)).movedim(-1, 1).contiguous()
        rows = torch.from_numpy(table[index])
        student, teacher = batched_views(images, rows, self._law, two=self._two_views)
        return Batch(student, torch.from_numpy(self._labels[index]), teacher, torch.from_numpy(index))


def _resident(pixels: NDArray[np.uint8] | list[NDArray[np.uint8]], device: torch.device) -> Tensor | list[Tensor]:
    """The images on the device, (n, H, W, 3) or a list of (H, W, 3); on a CPU without a copy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of memory that is not writable; nobody writes there
        if isinstance(pixels, list):
            return [torch.from_numpy(image).to(device) for image in pixels]
        return torch.from_numpy(pixels).to(device)
