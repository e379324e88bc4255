"""Several processes on this machine, started and watched by torch elastic."""

import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.rendezvous import rendezvous

from cikd_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, CikdError
from cikd_cli.processes import rank_logs
from cikd_cli.processes.rank_logs import Attempts, Stopped, Told, log_path
from cikd_cli.processes.stall import Watch
from cikd_cli.processes.stop import SAVES
from cikd_cli.processes.world import Hardware, World
from cikd_cli.system import cores, signals
from cikd_cli.text import duration

ENDS = signals("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
RESTARTS = 3  # of all processes, after some were killed
PATIENCE = timedelta(minutes=30)  # of a collective operation; `Watch` notices sooner, and names the process


def launch(
    worker: Callable[..., bool], hardware: Hardware, run: Path, *args: Any, stall: float, warn: Callable[[str], None]
) -> None:
    """Run `worker(world, run, *args)` on every process of `hardware` through torch elastic, and wait for them.

    `worker` says whether it came to the end, or was stopped by a signal and has saved.
    When a process is killed, all start again, up to RESTARTS times: `worker` goes on from what it has saved. stall:
    seconds without progress after which they are ended; warn: told of restarts. A signal is passed on; run.json says
    how far they came.

    Raises:
        CikdError: a process failed, or stood still, or was killed too often.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):  # which logs at length what our sentence says
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // hardware.processes)))
    method = _start_method(worker.__module__)
    rank_logs.clear(run)
    attempts = Attempts(run, warn=warn)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=hardware.processes,
        logs_specs=attempts,
        run_id=run.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=RESTARTS,
        start_method=method,
        # a signal that is ignored already, as SIGHUP is under nohup, stays ignored
        signals_to_handle=",".join(one.name for one in ENDS if signal.getsignal(one) is not signal.SIG_IGN),
    )
    before = {number: signal.getsignal(number) for number in (*ENDS, *SAVES)}
    for number in SAVES:
        signal.signal(number, _pass_on)  # else torch elastic would end the workers
    try:
        elastic_launch(config, _entry)(worker, hardware, run, stall, args)
    except ChildFailedError as error:
        with suppress(Stopped):
            attempts.refuse()
            killed = _killed(error)
            raise killed.error(log_path(run, killed.rank)) from error
    except (SignalException, Stopped):
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    rank_logs.clear(run)


def start_group(device: torch.device, store: Store, *, rank: int, size: int) -> None:
    """Let this process and its peers find each other. Raises CikdError when they cannot be reached."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"  # tensors on the CPU are sent too
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except RuntimeError as error:
        gone = isinstance(error, dist.DistError)  # a peer that could not reach this one has ended first
        if not gone and "gloo" not in str(error).lower():
            raise
        said = f"Process {rank} cannot reach the others through the network of {socket.gethostname()}"
        hint = "name the interface that all machines share:  GLOO_SOCKET_IFNAME=eth0 (ip address lists them)"
        raise CikdError(said, hint=hint, exit_code=EXIT_FAILED) from error


def stood_still(blamed: Sequence[int], run: Path, *, rank: int, stall: float) -> Told:
    """What process `rank` has to say when nobody has moved for `stall` seconds."""
    since = f"for {duration(stall)}"
    said = f"No process has moved {since}"
    if blamed:
        many, named = len(blamed) > 1, ", ".join(map(str, blamed))
        said = f"Process{'es' * many} {named} {'have' if many else 'has'} not moved {since}, and the others wait"
    hint = f"to go on:  --resume {run}, with --stall-after {2 * stall:.0f}s if so long a pause is to be expected"
    return Told(blamed[0] if blamed else rank, said, hint)


def _start_method(module: str) -> str:
    """How processes are started: forked from a server that has loaded `module`, where the system has such a thing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.set_forkserver_preload([module, "cikd_cli.processes.preload"])
    before = os.environ.get("PYTHONPATH")
    paths = [str(Path(__file__).parents[2]), *(before.split(os.pathsep) if before else ())]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # so that the server imports this very package
    try:
        ensure_running()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return "forkserver"


def _pass_on(number: int, _frame: FrameType | None) -> None:
    for worker in multiprocessing.active_children():
        if worker.pid is not None:
            os.kill(worker.pid, number)


def _entry(worker: Callable[..., bool], hardware: Hardware, run: Path, stall: float, args: Sequence[Any]) -> None:
    """What each launched process does; torch elastic has set RANK, WORLD_SIZE and the rendezvous."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # see `processes/preload`
    for number in signals("SIGHUP"):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # to save, and end
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank:
        rank_logs.take_output(run, rank)
    device = torch.device("cuda", hardware.gpus[rank]) if hardware.gpus else torch.device("cpu")
    if not hardware.gpus:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def give_up(blamed: Sequence[int]) -> None:
        rank_logs.write_stacks(run, rank)
        rank_logs.tell(run, stood_still(blamed, run, rank=rank, stall=stall))
        rank_logs.end_now(EXIT_FAILED)

    try:
        store, _, _ = next(rendezvous("env://"))
        # a start has keys of its own: torch elastic keeps its store, with what processes before have written
        store = PrefixStore(f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        with Watch(watch_store(store), rank=rank, size=size, stall=stall, give_up=give_up) as watch:
            start_group(device, store, rank=rank, size=size)
            finished = worker(World(device, rank, size, moved=watch.moved), run, *args)
            dist.barrier()  # until the first one has written how far they came
        dist.destroy_process_group()
    except KeyboardInterrupt:  # a Ctrl-C before the first step, or a second one; the parent tells it
        rank_logs.tell(run, Told(rank, "Stopped", exit_code=EXIT_INTERRUPTED))
        rank_logs.end_now(EXIT_INTERRUPTED)
    except Exception as error:
        rank_logs.write_traceback(run, rank)
        rank_logs.tell(run, Told.about(error, rank))
        rank_logs.end_now(EXIT_FAILED)
    if watch.orphaned or not finished:  # else torch elastic waits for the parent, which is gone
        rank_logs.tell(run, Told(rank, "Stopped", exit_code=EXIT_INTERRUPTED))
        rank_logs.end_now(EXIT_INTERRUPTED)


def watch_store(store: Store) -> Store:
    """A connection of its own for `Watch`: that of the training may be busy waiting."""
    return PrefixStore("watch", store.clone())


def _killed(error: ChildFailedError) -> Told:
    """What is to be said of processes that left no word of their own."""
    rank, failure = error.get_first_failure()
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with code {failure.exitcode}"
    hint = "where memory runs out the system kills: fewer --workers, or --set cache_mb=0"
    return Told(rank, f"Process {rank} {how}, also after {RESTARTS} restarts", hint)
