"""What the launched processes of a run leave for the person who looks for a fault: a log each, and an error each.

`ranks/rank-1.log` holds what process 1 printed, and its traceback; the process that prints for all has only the latter.
The folder goes when the run ends well.
"""

import faulthandler
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import distributed as dist
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs

from cikd_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, OUT_OF_MEMORY_HINT, CikdError

FOLDER = "ranks"
_LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")  # in torch's words


@dataclass(frozen=True)
class Told:
    """The error of one process, on its way to the others; lost: it is about a process that has gone, not its own."""

    rank: int
    message: str
    hint: str | None = None
    exit_code: int = EXIT_FAILED
    lost: bool = False
    when: float = field(default_factory=time.time)

    @classmethod
    def about(cls, error: BaseException, rank: int) -> "Told":
        """A sentence for any error."""
        if isinstance(error, CikdError):
            return cls(rank, error.message, error.hint, error.exit_code)
        kind, text = type(error).__name__, (str(error).strip().splitlines() or ["it left no message"])[0]
        hint = OUT_OF_MEMORY_HINT if "OutOfMemory" in kind else None
        return cls(rank, f"Process {rank} failed: {kind}: {text}", hint, lost=is_loss(error))

    def error(self, log: Path | None, *, shown: bool = False) -> CikdError:
        """The error to show, with the log to look into, if there is one."""
        sentence = CikdError(self.message).message
        if log is not None and log.exists():
            sentence += f" The log of process {self.rank}: {log}"
        return CikdError(sentence, hint=self.hint, exit_code=self.exit_code, shown=shown)


class Stopped(Exception):  # noqa: N818 - no error
    """The processes were told to stop, and have saved."""


def is_loss(error: BaseException) -> bool:
    """Whether an error says no more than that another process has gone."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST)


def log_path(run: Path, rank: int) -> Path:
    """The log of one process."""
    return run / FOLDER / f"rank-{rank}.log"


def take_output(run: Path, rank: int) -> None:
    """From here on what this process prints, C libraries included, goes to its log."""
    handle = os.open(_made(log_path(run, rank)), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(handle, number)
    os.close(handle)


def write_traceback(run: Path, rank: int) -> None:
    """Add the error under way to the log of this process."""
    with suppress(OSError), _made(log_path(run, rank)).open("a", encoding="utf-8", errors="replace") as log:
        traceback.print_exc(file=log)


def write_stacks(run: Path, rank: int) -> None:
    """Add where every thread of this process stands to its log."""
    with suppress(OSError), _made(log_path(run, rank)).open("a", encoding="utf-8") as log:
        faulthandler.dump_traceback(file=log, all_threads=True)


def tell(run: Path, told: Told) -> None:
    """Leave an error where the parent finds it."""
    with suppress(OSError):
        _made(run / FOLDER / f"rank-{told.rank}.json").write_text(json.dumps(asdict(told)), encoding="utf-8")


def end_now(code: int) -> None:
    """End this process without waiting for peers that may never answer."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def clear(run: Path) -> None:
    """Remove the logs."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)


class Attempts(LogsSpecs):
    """Told by torch elastic of every start of the processes; lets it start them again only when some were killed.

    An error that a process tells would come again, so it ends the run. warn: called at each further start.
    """

    def __init__(self, run: Path, *, warn: Callable[[str], None]) -> None:
        super().__init__()
        self._run, self._warn = run, warn

    @property
    def root_log_dir(self) -> str:
        """The folder of the logs."""
        return str(self._run / FOLDER)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Called before the processes start; raises the CikdError of the last attempt, if one was told."""
        attempt, told = int(envs[0]["TORCHELASTIC_RESTART_COUNT"]), self._take()
        if attempt:
            self._refuse(told)
            gone = [rank for rank in range(len(envs)) if rank not in {one.rank for one in told}]
            self._warn(
                f"{_named(gone)} ended without a word, killed perhaps; all go on from the last checkpoint "
                f"(restart {attempt} of {envs[0]['TORCHELASTIC_MAX_RESTARTS']})"
            )
        here = dict.fromkeys(envs, "")  # "": output stays on the terminal until `take_output`
        for env in envs.values():
            env["TORCHELASTIC_ERROR_FILE"] = ""
        return LogsDest(here, dict(here), {}, {}, dict.fromkeys(envs, os.devnull))

    def refuse(self) -> None:
        """Raise the CikdError, or Stopped, that a process has told, if one has, when there is no further start."""
        self._refuse(self._take())

    def _refuse(self, told: Sequence[Told]) -> None:
        own = min((one for one in told if not one.lost), key=lambda one: one.when, default=None)
        if own is not None and own.exit_code == EXIT_INTERRUPTED:
            raise Stopped
        if own is not None:
            raise own.error(log_path(self._run, own.rank))

    def _take(self) -> list[Told]:
        """The errors of the last attempt; their files go."""
        found = []
        for path in sorted((self._run / FOLDER).glob("*.json")):
            with suppress(OSError, ValueError, TypeError):
                found.append(Told(**json.loads(path.read_text(encoding="utf-8"))))
            path.unlink(missing_ok=True)
        return found


def _named(ranks: list[int]) -> str:
    if not ranks:
        return "A process"
    return f"Process{'es' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def _made(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return path
