"""Ctrl-C and SIGTERM ask the training loop to finish its step, save and end; SIGUSR1 to save and go on."""

import signal
import threading
import time
from types import FrameType, TracebackType

STOPS = (signal.SIGINT, signal.SIGTERM)
SAVES = signal.SIGUSR1  # a scheduler's warning, some time before it ends the job
ECHO = 2.0  # seconds in which a launcher repeats to its workers the Ctrl-C that their terminal has sent them already


class StopRequest:
    """A context manager; `asked` turns true at the first Ctrl-C or SIGTERM, a later Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._save = False
        self._when = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in STOPS}
            self._before[SAVES] = signal.signal(SAVES, self._ask_save)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def save_asked(self) -> bool:
        """Whether a SIGUSR1 has come since this was last called."""
        asked, self._save = self._save, False
        return asked

    def _ask_save(self, _number: int, _frame: FrameType | None) -> None:
        self._save = True

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._when = True, now
        elif number == signal.SIGINT and now - self._when > ECHO:
            raise KeyboardInterrupt
