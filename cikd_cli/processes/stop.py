"""Ctrl-C, SIGTERM and SIGHUP ask the training loop to finish its step, save and end; SIGUSR1 to save and go on."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from enum import Enum
from types import FrameType, TracebackType

from cikd_cli.system import signals


class Reason(Enum):
    """Why training stopped, as people are told; the first one that holds counts."""

    CTRL_C = ""
    ORPHANED = "as the process that had started it was gone"
    HANGUP = "on SIGHUP (its terminal or connection was closed)"
    TERMINATED = "on SIGTERM (a time limit, a shutdown or kill)"


_REASONS = {"SIGINT": Reason.CTRL_C, "SIGTERM": Reason.TERMINATED, "SIGHUP": Reason.HANGUP}
SIGNALS = {number: _REASONS[number.name] for number in signals(*_REASONS)}
SAVES = signals("SIGUSR1")  # a scheduler's warning, some time before it ends the job
ECHO = 2.0  # seconds in which a launcher repeats to its workers the Ctrl-C that their terminal has sent them already

_orphaned = threading.Event()


def stop_as_orphan() -> None:
    """Ask the training of this process to stop because nobody waits for it any more."""
    _orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)


class StopRequest:
    """A context manager; `reasons` fill at the first Ctrl-C, SIGTERM or SIGHUP, a later Ctrl-C interrupts at once.

    A SIGHUP that is ignored already, as nohup does, stays so.
    """

    def __init__(self) -> None:
        self.reasons: set[Reason] = set()
        self._save = False
        self._when = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number, why in SIGNALS.items():
                if why != Reason.HANGUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
            for number in SAVES:
                self._before[number] = signal.signal(number, self._ask_save)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def votes(self) -> list[bool]:
        """For each Reason whether it holds in this process; `reason` reads what all of them came to."""
        return [reason in self.reasons for reason in Reason]

    def save_asked(self) -> bool:
        """Whether a SIGUSR1 has come since this was last called."""
        asked, self._save = self._save, False
        return asked

    def _ask_save(self, _number: int, _frame: FrameType | None) -> None:
        self._save = True

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.reasons:
            self._when = now
            self.reasons.add(Reason.ORPHANED if _orphaned.is_set() else SIGNALS[signal.Signals(number)])
        elif number == signal.SIGINT and now - self._when > ECHO:
            raise KeyboardInterrupt


def reason(votes: Sequence[bool]) -> Reason | None:
    """The reason to stop that `votes` name, if they name one."""
    return next((one for one, vote in zip(Reason, votes, strict=True) if vote), None)
