"""Ctrl-C, SIGTERM and SIGUSR1 ask the training loop to finish its step, save and end."""

import signal
import threading
import time
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ECHO = 2.0  # seconds in which a launcher repeats to its workers the Ctrl-C that their terminal has sent them already


class StopRequest:
    """A context manager; `asked` turns true at the first signal, a later Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._when = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._when = True, now
        elif number == signal.SIGINT and now - self._when > ECHO:
            raise KeyboardInterrupt
