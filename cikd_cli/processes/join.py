"""Processes that another launcher has started, on one machine or several: `torchrun … -m cikd_cli ali …`.

The first one does what the parent of `processes/launch` does. The others learn from it, through the store that the
launcher's processes share, which run it is; and all learn the first error that one of them tells.
"""

import json
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from cikd_cli.console import show_error
from cikd_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, CikdError
from cikd_cli.processes import environment, rank_logs
from cikd_cli.processes.launch import PATIENCE, start_group, stood_still, watch_store
from cikd_cli.processes.rank_logs import Told
from cikd_cli.processes.stall import Watch
from cikd_cli.processes.world import Hardware, Joined, World
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.request import RunOptions

_GONE = "The other processes are gone: one of them has ended without a word, killed perhaps"
_WORD = timedelta(seconds=3)  # that a process which fails has to tell the others why
_LOOK = timedelta(seconds=2)


class Peers:
    """This process among those of a launcher. Raises CikdError for options that are the launcher's to choose."""

    def __init__(self, options: RunOptions) -> None:
        device, size = _device(options), environment.world_size()
        self._rank, self._stall = environment.rank(), options.stall
        self._run: Path | None = None
        try:
            self._store = _meet(self._rank, size)
        except dist.DistError as error:
            raise CikdError(_GONE, exit_code=EXIT_FAILED, shown=self._rank != 0) from error
        self._watch = Watch(
            watch_store(self._store), rank=self._rank, size=size, stall=self._stall, give_up=self._give_up
        )
        machines = max(1, size // environment.local_world_size())
        world = World(device, self._rank, size, machines, self._watch.moved)
        gpus = () if device.index is None else (device.index,)
        self.hardware = Hardware(gpus, size, machines=machines, joined=Joined(world, self._announce))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around all work: the first error of a process becomes the error of all, shown by the one that had it."""
        try:
            with self._watch:
                start_group(self.hardware.device, self._store, rank=self._rank, size=self.hardware.processes)
                yield
                if self._rank == 0 and self._run is None:  # nothing was written, as in a dry run
                    self._store.set("run", "")
        except Exception as error:
            sentence = self._shared(error)
            if sentence.exit_code == EXIT_INTERRUPTED:
                dist.destroy_process_group()
            raise sentence from error
        dist.destroy_process_group()

    def follow(self) -> Path | None:
        """Wait for the run that the first process announces, and return its path; none if there is nothing to train.

        Raises:
            CikdError: the first process has failed and said why, or its run cannot be seen from here.
        """
        while not self._arrived("run"):
            if self._store.check(["error"]):
                raise self._told(shown=True)
        path = self._store.get("run").decode()
        if not path:
            return None
        self._run = Path(path)
        if not (self._run / "run.json").is_file():
            raise CikdError(
                f"Process {self._rank} does not see {path}, which process 0 has made",
                hint="give --runs-dir a folder that all machines share",
            )
        return self._run

    def _announce(self, run: Path) -> None:
        self._run = run
        self._store.set("run", str(run.resolve()))

    def _arrived(self, key: str, within: timedelta = _LOOK) -> bool:
        try:
            self._store.wait([key], within)
        except RuntimeError:
            return bool(self._store.check([key]))
        return True

    def _shared(self, error: Exception) -> CikdError:
        """The error of all processes; this one tells the others, if it is the first."""
        if isinstance(error, CikdError) and (error.shown or error.exit_code == EXIT_INTERRUPTED):
            return error
        told = Told.about(error, self._rank)
        if not told.lost:
            return self._tell(told)
        with suppress(RuntimeError):
            if self._arrived("error", _WORD):
                sentence = self._told(shown=True)
                self._record(sentence)
                return sentence
        hint = f"--resume {self._run} goes on from the last checkpoint" if self._run else None
        return CikdError(_GONE, hint=hint, exit_code=EXIT_FAILED, shown=self._rank != 0)

    def _tell(self, told: Told) -> CikdError:
        if self._run is not None:
            rank_logs.write_traceback(self._run, self._rank)
        own = json.dumps(asdict(told)).encode()
        if self._store.compare_set("error", "", own.decode()) != own:  # another one was first
            return self._told(shown=True)
        sentence = self._told(shown=False)
        self._record(sentence)
        if self._rank:  # the command line of process 0 shows it anyway
            show_error(sentence)
        return self._told(shown=self._rank != 0)

    def _told(self, *, shown: bool) -> CikdError:
        told = Told(**json.loads(self._store.get("error")))
        log = rank_logs.log_path(self._run, told.rank) if self._run is not None else None
        return told.error(log, shown=shown)

    def _record(self, sentence: CikdError) -> None:
        """Note in run.json why the run has ended, unless it is the user's input that was wrong."""
        if self._rank == 0 and self._run is not None:
            with suppress(CikdError, OSError):
                RunDir.open(self._run, finished=False).fail("failed", sentence.message)

    def _give_up(self, blamed: Sequence[int]) -> None:
        run = self._run or Path()
        if self._run is not None:
            rank_logs.write_stacks(self._run, self._rank)
        sentence = self._tell(stood_still(blamed, run, rank=self._rank, stall=self._stall))
        self._record(sentence)
        if not sentence.shown:
            show_error(sentence)
        rank_logs.end_now(EXIT_FAILED)


def _meet(rank: int, size: int) -> Store:
    """A part of the launcher's store that belongs to the processes of this very start.

    torchrun keeps its store when it starts the processes again, with what the dead ones wrote into it, and its agents
    count starts each for themselves. So each process writes a word of its own, the first one proposes all the words it
    sees as a name, and the name counts once everybody whose word is in it has agreed.
    """
    store, _, _ = next(rendezvous("env://"))
    store, word, asked = PrefixStore("cikd", store), secrets.token_hex(8), ""
    store.set(f"word/{rank}", word)
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while time.monotonic() < deadline:
        if rank == 0:
            words = [f"word/{peer}" for peer in range(size)]
            name = ".".join(each.decode() for each in store.multi_get(words)) if store.check(words) else ""
            if name and name != asked:
                store.set("name", name)
            asked = name
            if name and store.check([f"{name}/{peer}" for peer in range(size) if peer] or ["name"]):
                store.set(f"{name}/all", "")
                return PrefixStore(name, store)
        elif store.check(["name"]):
            name = store.get("name").decode()
            if name.split(".")[rank] == word:
                store.set(f"{name}/{rank}", "")
                if store.check([f"{name}/all"]):
                    return PrefixStore(name, store)
        time.sleep(0.05)
    raise CikdError("Not all processes have come within 30 minutes", hint="the launcher says which machine is missing")


def _device(options: RunOptions) -> torch.device:
    """The device of this process: the GPU of its number on this machine, else the CPU."""
    if options.gpus not in (None, "cpu") or options.processes is not None:
        raise CikdError(
            f"torchrun has started {environment.world_size()} processes, one for each GPU; --gpus N and --processes "
            "are for starting them without it",
            hint="leave them out; --gpus cpu trains on the CPU",
        )
    number, there = environment.local_rank(), torch.cuda.device_count()
    if options.gpus == "cpu" or there == 0:
        return torch.device("cpu")
    if number >= there:
        lack = CikdError(
            f"torchrun has started {environment.local_world_size()} processes on {socket.gethostname()}, which has "
            f"{there} GPU{'s' * (there != 1)}",
            hint=f"torchrun --nproc-per-node {there}",
        )
        if number == there:  # one process on each machine that has too few; process 0 may be elsewhere
            show_error(lack)
        lack.shown = True
        raise lack
    return torch.device("cuda", number)
