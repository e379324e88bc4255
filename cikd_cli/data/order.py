"""Which images a step shows: a function of (seed, step) alone, shared out among the processes."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cikd_cli.data.views import philox
from cikd_cli.errors import CikdError

Item = tuple[int, int]  # (epoch, index)


def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """A permutation of 0..count-1, a function of (seed, epoch, count)."""
    return np.argsort(philox(seed, epoch, stream=1).random(count), kind="stable").astype(np.int64)


class Steps:
    """The (epoch, index) pairs of each step in `span`, this process's slice of them; a batch sampler.

    The `rank`-th of `size` processes gets an equal, contiguous slice of every global batch. The last, short batch of
    an epoch is dropped (docs/method.md). Raises CikdError when the batch is larger than the split or cannot be divided.
    """

    def __init__(self, seed: int, count: int, batch_size: int, rank: int, size: int) -> None:
        if batch_size > count:
            raise CikdError(
                f"The batch of {batch_size} is larger than the {count} training images.",
                hint=f"--batch-size {max(1, count // size * size)}",
            )
        if batch_size % size:
            raise CikdError(
                f"A batch of {batch_size} cannot be divided among {size} processes.",
                hint=f"--batch-size {max(size, batch_size // size * size)}",
            )
        self.span = (0, 0)
        self.per_epoch = count // batch_size
        self._seed, self._count, self._batch_size = seed, count, batch_size
        share = batch_size // size
        self._slice = slice(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[list[Item]]:
        shown, order = -1, np.empty(0, dtype=np.int64)
        for step in range(*self.span):
            epoch, place = divmod(step, self.per_epoch)
            if epoch != shown:
                shown, order = epoch, epoch_order(self._seed, epoch, self._count)
            whole = order[place * self._batch_size : (place + 1) * self._batch_size]
            yield [(epoch, index) for index in whole[self._slice].tolist()]
