"""A thread beside the training of each of several processes: it finds out that a peer stands still, or has no parent.

Each process says in the store that they all share how often it has moved. A step needs all processes, so when nobody
has moved for `stall` seconds, those who have moved least are the ones that the others wait for.
"""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch.distributed.distributed_c10d import Store

from cikd_cli.errors import EXIT_INTERRUPTED
from cikd_cli.processes.stop import stop_as_orphan

GRACE = 60.0  # seconds to save in once the launcher is gone
_TICK = 0.25  # seconds


@dataclass(frozen=True)
class Beat:
    """What a process says of itself: how often it spoke, how often it moved, and who it is; over: it needs no watch."""

    spoken: int
    moved: int
    host: str
    process: int
    over: bool = False

    def __str__(self) -> str:
        return f"{self.spoken} {self.moved} {self.host} {self.process} {int(self.over)}"

    @classmethod
    def read(cls, text: str) -> "Beat":
        """The inverse of str."""
        spoken, moved, host, process, over = text.split()
        return cls(int(spoken), int(moved), host, int(process), over == "1")


class Watch:
    """A context manager around the work of one process among `size`.

    stall: seconds after which a group that does not move is given up; `give_up` is then called, in a thread, with the
    ranks to blame (none: nobody is behind), on every process that still can, after frozen ones were killed.
    """

    def __init__(
        self, store: Store, *, rank: int, size: int, stall: float, give_up: Callable[[Sequence[int]], None]
    ) -> None:
        self._store, self._rank, self._size, self._stall, self._give_up = store, rank, size, stall, give_up
        self._parent = os.getppid()
        self._moved = self._spoken = 0
        self._beats: dict[int, Beat] = {}
        self._heard: dict[int, float] = {}
        self._progress = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="watch")

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def moved(self) -> None:
        """Called by the training wherever it has come further."""
        self._moved += 1

    @property
    def orphaned(self) -> bool:
        """Whether the process that started this one has ended."""
        launcher = multiprocessing.parent_process()  # for a process forked by a server, getppid() is that server
        return os.getppid() != self._parent if launcher is None else not launcher.is_alive()

    def _run(self) -> None:
        period, spoke = min(5.0, self._stall / 8), 0.0
        while not self._over.wait(_TICK):
            if self.orphaned:
                return self._end_as_orphan()
            if time.monotonic() - spoke >= period:
                spoke = time.monotonic()
                try:
                    self._speak()
                    self._listen()
                except RuntimeError:  # the store is gone with the process that had it; look for the parent again
                    continue
                blamed = self._blamed()
                if blamed is not None and not self._over.is_set():
                    self._kill_frozen(blamed)
                    self._give_up(blamed)
                    return None
        with suppress(RuntimeError):
            self._speak(over=True)
        return None

    def _speak(self, *, over: bool = False) -> None:
        self._spoken += 1
        beat = Beat(self._spoken, self._moved, socket.gethostname(), os.getpid(), over)
        self._store.set(f"beat/{self._rank}", str(beat))

    def _listen(self) -> None:
        now, keys = time.monotonic(), [f"beat/{rank}" for rank in range(self._size)]
        if not self._store.check(keys):
            return
        for rank, content in enumerate(self._store.multi_get(keys)):
            beat, before = Beat.read(content.decode()), self._beats.get(rank)
            if before is None or beat.spoken != before.spoken:
                self._heard[rank] = now
            if before is None or beat.moved != before.moved or beat.over != before.over:
                self._progress = now
            self._beats[rank] = beat

    def _blamed(self) -> list[int] | None:
        """The ranks that hold the others up, or none while there is no reason to think so."""
        now = time.monotonic()
        going = {rank: beat for rank, beat in self._beats.items() if not beat.over}
        if now - self._progress < self._stall or not going:
            return None
        frozen = [rank for rank in going if now - self._heard[rank] >= self._stall / 2]
        if frozen:
            return frozen
        moved = [beat.moved for beat in going.values()]
        if max(moved) == 0:  # nobody trains yet: reading images and compiling may take their time
            return None
        return [rank for rank, beat in going.items() if beat.moved == min(moved) < max(moved)]

    def _kill_frozen(self, blamed: Sequence[int]) -> None:
        for rank in blamed:
            beat = self._beats[rank]
            if rank != self._rank and beat.host == socket.gethostname() and self._is_frozen(rank):
                with suppress(OSError):
                    os.kill(beat.process, signal.SIGKILL)

    def _is_frozen(self, rank: int) -> bool:
        return time.monotonic() - self._heard[rank] >= self._stall / 2

    def _end_as_orphan(self) -> None:
        stop_as_orphan()
        if not self._over.wait(GRACE):
            os._exit(EXIT_INTERRUPTED)
