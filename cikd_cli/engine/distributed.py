"""Processes and devices; nothing else in the program knows about ranks."""

import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cikd_cli.errors import EXIT_FAILED, CikdError

ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """The process that writes and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes, on every process; `values` may be overwritten."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes, on every process; `values` may be overwritten."""
        return self.sum(values) / self.size if self.size > 1 else values

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether any process raises it; all of them learn the same answer."""
        if self.size == 1:
            return flags
        votes = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(votes)
        return tuple(bool(vote > 0) for vote in votes)

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()


@dataclass(frozen=True)
class Hardware:
    """What a run is started on: GPU numbers, or () for `processes` processes on the CPU."""

    gpus: tuple[int, ...]
    processes: int

    @property
    def device(self) -> torch.device:
        """The first device, on which the parent tries things out."""
        return torch.device("cuda", self.gpus[0]) if self.gpus else torch.device("cpu")

    def __str__(self) -> str:
        if not self.gpus:
            return "CPU" if self.processes == 1 else f"{self.processes} × CPU"
        return f"{len(self.gpus)} × {torch.cuda.get_device_name(self.gpus[0])}"


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
    if gpus == "all":
        chosen = tuple(range(there)) or (0,)
    elif gpus.isdigit():
        chosen = tuple(range(int(gpus)))
    else:
        try:
            chosen = tuple(int(number) for number in gpus.split(","))
        except ValueError as error:
            raise CikdError(f"--gpus {gpus} is neither a number, 'all', a list like 0,2 nor 'cpu'.") from error
    if not chosen or len(set(chosen)) < len(chosen):
        raise CikdError(f"--gpus {gpus} names no GPU, or one twice.", hint="--gpus cpu, --gpus 1 or --gpus 0,1")
    if max(chosen) >= there or min(chosen) < 0:
        has = f"has {there} GPU{'s' * (there != 1)}" if there else "has no GPU that torch can use"
        raise CikdError(
            f"--gpus {gpus} asks for GPU {max(chosen)}, but this machine {has}.",
            hint="--gpus all" if there else "--gpus cpu",
        )
    return Hardware(chosen, len(chosen))


def launch(worker: Callable[..., None], hardware: Hardware, run: Path, *args: Any) -> None:
    """Run `worker(world, run, *args)` on every process of `hardware` through torch elastic, and wait for them.

    Raises the CikdError of the first worker that failed. A signal is passed on; run.json says how far they came.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the sentence below says it shorter
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // hardware.processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=hardware.processes,
        run_id=run.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
        signals_to_handle=",".join(number.name for number in ENDS),
    )
    before = {number: signal.getsignal(number) for number in (*ENDS, signal.SIGUSR1)}
    signal.signal(signal.SIGUSR1, _pass_on)  # torch elastic would end the workers
    try:
        elastic_launch(config, _entry)(worker, hardware, run, *args)
    except ChildFailedError as error:
        raise _told_by(error) from error
    except SignalException:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(number: int, _frame: FrameType | None) -> None:
    for worker in multiprocessing.active_children():
        if worker.pid is not None:
            os.kill(worker.pid, number)


@record
def _entry(worker: Callable[..., None], hardware: Hardware, run: Path, *args: Any) -> None:
    """What each launched process does; torch elastic has set RANK, WORLD_SIZE and the rendezvous."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if hardware.gpus:
        device = torch.device("cuda", hardware.gpus[int(os.environ["LOCAL_RANK"])])
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    dist.init_process_group("nccl" if hardware.gpus else "gloo")
    try:
        worker(World(device, rank, size), run, *args)
    except CikdError as error:
        raise WorkerError(json.dumps([error.message, error.hint, error.exit_code])) from error
    finally:
        dist.destroy_process_group()


class WorkerError(Exception):
    """A CikdError on its way from a worker to its parent, as JSON: torch elastic hands on text only."""


def _told_by(error: ChildFailedError) -> CikdError:
    """The sentence of the first process that failed."""
    rank, failure = error.get_first_failure()
    message = failure.message.get("message", "") if isinstance(failure.message, dict) else str(failure.message)
    kind, _, text = ((message or "").strip().splitlines() or ["it left no message"])[-1].partition(": ")
    if kind.endswith("WorkerError"):
        sentence, hint, exit_code = json.loads(text)
        return CikdError(sentence, hint=hint, exit_code=exit_code)
    hint = "use a smaller --batch-size, or split each batch with --accumulate 2" if "OutOfMemory" in kind else None
    return CikdError(f"Process {rank} failed: {kind}: {text}", hint=hint, exit_code=EXIT_FAILED)
