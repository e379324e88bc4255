"""One process at a time in a run: a lock file that says who holds it, freed by the system if that process dies."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cikd_cli.errors import CikdError
from cikd_cli.files import disk_error, remove_leftovers
from cikd_cli.system import lock

COMMAND = ".lock"  # of the process that a user started
WRITER = ".writer"  # of the launched process that writes; when the command is killed, it lives on for seconds
_TRIES = 4  # another process that only asks `is_held` has the lock for an instant
_PAUSE = 0.05  # seconds
_held: set[int] = set()  # handles


def _let_go() -> None:
    """In a forked worker, whose copy of the handle would keep the run locked after its parent was killed."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def hold(folder: Path, name: str = COMMAND) -> Iterator[None]:
    """Hold a lock of a run, without what a killed process left half-written there; the lock's file goes afterwards.

    Raises:
        CikdError: another process holds it; the message names it.
    """
    path = folder / name
    handle = _acquire(path)
    _held.add(handle)
    try:
        os.ftruncate(handle, 0)
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())
        for inside in (folder, folder / "checkpoints", folder / "analysis"):
            remove_leftovers(inside)
        yield
    finally:
        path.unlink(missing_ok=True)
        _held.discard(handle)
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether a living process holds a lock of `folder`."""
    return _held_name(folder) is not None


def refuse_orphan(folder: Path) -> None:
    """Raise CikdError while a launched process writes on whose command was killed."""
    if _is_held(folder / WRITER):
        raise _in_use(folder / WRITER)
    (folder / WRITER).unlink(missing_ok=True)


def holder(folder: Path) -> str:
    """Who holds the lock: `process 123 on host since 2026-01-31 09:00 UTC`."""
    return _told_by(folder / (_held_name(folder) or COMMAND))


def _held_name(folder: Path) -> str | None:
    return next((name for name in (COMMAND, WRITER) if _is_held(folder / name)), None)


def _is_held(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _try(handle, shared=True)
    finally:
        os.close(handle)


def _told_by(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"


def _in_use(path: Path) -> CikdError:
    hint = "wait for it, or stop it with Ctrl-C in its terminal"
    return CikdError(f"{path.parent} is in use by {_told_by(path)}", hint=hint)


def _acquire(path: Path) -> int:
    for _ in range(_TRIES):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise disk_error(error, path) from error
        # The file may have been removed between open and lock: then what we hold is nobody's lock any more.
        if _try(handle) and _is_still(path, handle):
            return handle
        os.close(handle)
        time.sleep(_PAUSE)
    raise _in_use(path)


def _try(handle: int, *, shared: bool = False) -> bool:
    try:
        lock(handle, shared=shared)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks must not keep anybody from working
        return True
    return True


def _is_still(path: Path, handle: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False
