"""What each operating system does in its own way: locks on open files, signals, cores, memory."""

import mmap
import os
import signal
import sys
from pathlib import Path

_FAR = 2**30  # Windows lets nobody read a locked byte: one behind the text of any file that is locked


def lock(handle: int, *, shared: bool = False, wait: bool = False) -> None:
    """Lock a file that was opened just now; the system frees it with the handle, however the process ends.

    Raises:
        BlockingIOError: another handle holds it.
        OSError: its file system has no locks, as some network mounts have none.
    """
    try:
        if sys.platform == "win32":  # whose msvcrt has no shared locks
            import msvcrt

            os.lseek(handle, _FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
    except PermissionError as error:  # Windows and some file systems say so of a lock that is held
        raise BlockingIOError(error.errno, error.strerror) from error


def signals(*names: str) -> tuple[signal.Signals, ...]:
    """Those of these signals that the system has; Windows has few."""
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


def cores() -> int:
    """The cores that this process may use: a scheduler gives it a share of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes that this process holds; where the system does not say, as Linux does, the most it has held."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * mmap.PAGESIZE if file.exists() else peak_memory()


def peak_memory() -> int:
    """The most bytes that this process has held; 0 on Windows, which is not asked."""
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
