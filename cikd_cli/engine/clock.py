"""Time of a run: seconds over all its sessions, images a second, the share spent waiting for data."""

import time
from collections.abc import Iterable, Iterator

from cikd_cli.data.batch import Batch
from cikd_cli.settings.request import EPOCHS, parse_interval


class Clock:
    """Starts when made; `seconds_before` are those of earlier sessions, `images` those of one step on all processes."""

    def __init__(self, seconds_before: float, *, images: int) -> None:
        self._before, self._images = seconds_before, images
        self._start = time.monotonic()
        self._steps, self._waited = 0, 0.0
        self._warm = self._start  # when the first step was over, which compiles and fills caches

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass batches on, timing how long each one was waited for; the step under way counts."""
        iterator = iter(batches)
        while True:
            asked = time.monotonic()
            batch = next(iterator, None)
            if batch is None:
                return
            self._waited += time.monotonic() - asked
            self._steps += 1
            yield batch
            if self._steps == 1:
                self._warm = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time so far, earlier sessions included."""
        return self._before + self._session

    @property
    def rate(self) -> float:
        """Images a second in this session, over all processes."""
        return self._images * self._steps / self._session

    @property
    def pace(self) -> float | None:
        """Seconds of a step of this session, the first one left out; none before two are done."""
        return (time.monotonic() - self._warm) / (self._steps - 1) if self._steps > 1 else None

    @property
    def waited(self) -> float:
        """Share of this session in which the loop waited for data."""
        return self._waited / self._session

    @property
    def _session(self) -> float:
        return max(time.monotonic() - self._start, 1e-9)


class Every:
    """Says once in every so many seconds that it is time."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def due(self) -> bool:
        """Whether the time has passed since this last said so."""
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


class SaveTimer:
    """Says when a checkpoint is due by `--save-every`: after some time, or after some epochs."""

    def __init__(self, every: str) -> None:
        amount, unit = parse_interval(every)
        self._epochs = int(amount) if unit == EPOCHS else None
        self._timer = Every(amount)

    def due(self, epochs: int | None) -> bool:
        """Whether it is time now; epochs: how many are done, if one has just ended."""
        if self._epochs is None:
            return self._timer.due()
        return epochs is not None and epochs % self._epochs == 0
