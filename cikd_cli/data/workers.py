"""Worker processes that make views: how many, and how they behave."""

import os
import shutil
import signal
import threading

import torch

from cikd_cli.data.decode import DecodedSplit
from cikd_cli.system import cores, signals

SMALL_IMAGE = 64  # pixels; up to here making a view costs less than sending it between processes
MOST_WORKERS = 8
PREFETCH = 2  # batches a worker prepares ahead

_SHARED_MEMORY = "/dev/shm"  # batches travel through it


def auto_workers(decoded: DecodedSplit, image_size: int, *, batch_size: int, views: int = 1, processes: int = 1) -> int:
    """Worker processes for one of a machine's `processes`: none for small images in memory, else one a core, at most 8.

    batch_size: images that one process gets in a step. As many workers as shared memory has room for: a container's
    default of 64 MiB holds few batches.
    """
    if decoded.in_memory and image_size <= SMALL_IMAGE:
        return 0
    workers = min(MOST_WORKERS, max(1, cores() // processes))
    if os.path.isdir(_SHARED_MEMORY):  # noqa: PTH112
        batch = (PREFETCH + 1) * views * batch_size * 3 * image_size**2
        workers = min(workers, shutil.disk_usage(_SHARED_MEMORY).free // (processes * max(1, batch)))
    return workers


def start_worker(_: int) -> None:
    """One thread, and signals to the whole group (Ctrl-C, SIGHUP, a scheduler's SIGTERM) are left to the parent.

    It saves its work and then ends the workers, by a SIGTERM of its own if need be.
    """
    torch.set_num_threads(1)
    for number in signals("SIGINT", "SIGHUP"):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
