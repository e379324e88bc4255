"""Processes and devices: this process among its peers, and what a run is started on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from cikd_cli.errors import CikdError
from cikd_cli.settings.request import gpu_numbers


@dataclass(frozen=True)
class World:
    """This process among its peers, as many on each of `machines`; `moved` tells them that it has come further."""

    device: torch.device
    rank: int = 0
    size: int = 1
    machines: int = 1
    moved: Callable[[], None] = lambda: None

    @property
    def neighbours(self) -> int:
        """The processes that share this machine."""
        return max(1, self.size // self.machines)

    @property
    def first(self) -> bool:
        """The process that writes and prints."""
        return self.rank == 0

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's tensors."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, 0)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes, on every process; `values` may be overwritten."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes, on every process; `values` may be overwritten."""
        return self.sum(values) / self.size if self.size > 1 else values

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether any process raises it; all of them learn the same answer, and no GPU is waited for."""
        if self.size == 1:
            return flags
        votes = torch.tensor([float(flag) for flag in flags])  # on the CPU, whatever the device
        dist.all_reduce(votes)
        return tuple(bool(vote > 0) for vote in votes)

    def agree(self, number: int) -> bool:
        """Whether all processes have come with the same number; all of them learn the same answer."""
        if self.size == 1:
            return True
        ends = torch.tensor([number, -number], device=self.device)
        dist.all_reduce(ends, op=dist.ReduceOp.MAX)
        return bool(ends[0] == -ends[1])

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()


@dataclass(frozen=True)
class Joined:
    """A process that belongs to a launcher's; `announce` tells the others where the run lies."""

    world: World
    announce: Callable[[Path], None]


@dataclass(frozen=True)
class Hardware:
    """What a run is started on: GPU numbers of this machine, or () for the CPU, and processes on all `machines`.

    joined: this process, where somebody else's launcher, such as torchrun, has started them all.
    """

    gpus: tuple[int, ...]
    processes: int
    machines: int = 1
    joined: Joined | None = None

    @property
    def world(self) -> World:
        """The first process, as it will be."""
        return self.joined.world if self.joined else World(self.device, size=self.processes)

    @property
    def device(self) -> torch.device:
        """The first device, on which the parent tries things out; of a joined process its own."""
        if self.joined is not None:
            return self.joined.world.device
        return torch.device("cuda", self.gpus[0]) if self.gpus else torch.device("cpu")

    def __str__(self) -> str:
        where = f" on {self.machines} machines" if self.machines > 1 else ""
        if not self.gpus:
            return ("CPU" if self.processes == 1 else f"{self.processes} × CPU") + where
        return f"{self.processes} × {torch.cuda.get_device_name(self.gpus[0])}{where}"


def choose_hardware(gpus: str | None, processes: int = 1) -> Hardware:
    """--gpus N|all|0,2|cpu: none takes one GPU when there is one. Raises CikdError where there are fewer."""
    there = torch.cuda.device_count()
    if gpus not in (None, "cpu") and processes > 1:
        raise CikdError(
            f"--processes {processes} is for the CPU; on GPUs there is one process each.",
            hint=f"--gpus cpu --processes {processes}, or --gpus {gpus} alone",
        )
    if gpus is None:
        return Hardware((0,), 1) if there and processes == 1 else Hardware((), processes)
    if gpus == "cpu":
        return Hardware((), processes)
    chosen = gpu_numbers(gpus) or tuple(range(max(there, 1)))
    if max(chosen) >= there or min(chosen) < 0:
        has = f"has {there} GPU{'s' * (there != 1)}" if there else "has no GPU that torch can use"
        raise CikdError(
            f"--gpus {gpus} asks for GPU {max(chosen)}, but this machine {has}.",
            hint="--gpus all" if there else "--gpus cpu",
        )
    return Hardware(chosen, len(chosen))
