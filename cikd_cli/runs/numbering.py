"""Names of new runs: `ali-001`, `ali-002`, ...; a number is never given twice, even after its run was deleted."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cikd_cli.errors import CikdError
from cikd_cli.files import disk_error, remove_leftovers, write_atomically
from cikd_cli.system import lock

_MEMORY = ".numbers.json"
_NUMBERED = re.compile(r"(.+)-(\d+)")


def claim(runs_dir: Path, *, prefix: str, name: str | None, stage: str) -> Path:
    """Make the folder of a new run with one atomic mkdir and return it.

    Raises:
        CikdError: `name` is taken or not a plain folder name, or `runs_dir` cannot be written.
    """
    check_free(runs_dir, name, stage=stage)
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        with _exclusive(runs_dir):
            remove_leftovers(runs_dir)
            highest = _highest(runs_dir)
            path = _make_named(runs_dir, name, stage) if name is not None else _make_next(runs_dir, prefix, highest)
            numbered = _NUMBERED.fullmatch(path.name)
            if numbered:
                kind, number = numbered[1], int(numbered[2])
                highest[kind] = max(number, highest.get(kind, 0))
                write_atomically(runs_dir / _MEMORY, json.dumps(highest, sort_keys=True).encode())
    except OSError as error:
        raise disk_error(error, runs_dir) from error
    return path


def check_free(runs_dir: Path, name: str | None, *, stage: str) -> None:
    """Raise CikdError when no run of this name can be made; cheap, so that it can be asked before any work."""
    check_name(name)
    if name is not None and (runs_dir / name).exists():
        raise _taken(runs_dir / name, stage)


def check_name(name: str | None) -> None:
    """Raise CikdError for what cannot be the name of a run."""
    if name is None:
        return
    if not re.fullmatch(r"[\w][\w.+-]{0,62}", name):  # 63 letters of up to 4 bytes: a file's name has up to 255
        raise CikdError(
            f"{name!r} cannot be the name of a run", hint="--name takes a plain folder name, e.g. first-try"
        )


def _taken(path: Path, stage: str) -> CikdError:
    if not (path / "run.json").exists():
        hint = f"choose another --name, or remove it if nothing is making it:  rm -r {path}"
        return CikdError(f"{path} exists already, without a run.json", hint=hint)
    hint = f"choose another --name, or continue it with  cikd {stage} --resume {path}"
    return CikdError(f"{path} exists already", hint=hint)


def _make_named(runs_dir: Path, name: str, stage: str) -> Path:
    path = runs_dir / name
    try:
        path.mkdir()
    except FileExistsError:
        raise _taken(path, stage) from None
    return path


def _make_next(runs_dir: Path, prefix: str, highest: dict[str, int]) -> Path:
    number = highest.get(prefix, 0)
    while True:
        number += 1
        path = runs_dir / f"{prefix}-{number:03d}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path


def _highest(runs_dir: Path) -> dict[str, int]:
    """The highest number given so far by prefix: as remembered, and as the folders show."""
    highest: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        highest = {str(kind): int(number) for kind, number in json.loads((runs_dir / _MEMORY).read_text()).items()}
    for path in runs_dir.iterdir():
        numbered = _NUMBERED.fullmatch(path.name)
        if numbered:
            highest[numbered[1]] = max(int(numbered[2]), highest.get(numbered[1], 0))
    return highest


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes from claiming at the same moment; without locks the mkdir alone decides."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            lock(handle, wait=True)
        yield
    finally:
        os.close(handle)
