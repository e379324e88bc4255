"""Everything a person sees: the Reporter (rich, plain or silent), errors, and the JSON summary.

Only this file writes to the terminal, through `outlet`, which outlives its reader. Text may come from users (class
names, paths), so nothing is read as markup and control characters never reach the terminal.
"""

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, TextIO, cast

from cikd_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, CikdError
from cikd_cli.outlet import Outlet, is_terminal
from cikd_cli.progress import Bar, DrawnProgress, PlainProgress
from cikd_cli.text import aligned, clean, pad, text_width

if TYPE_CHECKING:
    from rich.console import Console

Mode = Literal["rich", "plain", "silent"]

_starting = False  # whether the word of `show_starting` stands on the terminal


class Reporter:
    """Lines, header fields, tables and progress for people; `attach_log` also appends them to files."""

    def __init__(self, mode: Mode = "plain", stream: TextIO | None = None) -> None:
        self.mode = mode
        self._outlet = Outlet(sys.stdout if stream is None else stream)
        self._missed = bool(self._outlet.lost)  # whether the log has been told that nobody reads the outlet
        self._warned = False  # whether the user has been told that the outlet is full
        self._logs: tuple[Path, ...] = ()
        self._told: deque[str] = deque(maxlen=50)  # before there is a log: the header of a run, if there is to be one
        self._console: Console | None = None
        _erase_starting()
        if mode == "rich":
            from rich.console import Console as RichConsole

            self._console = RichConsole(file=cast("IO[str]", self._outlet), highlight=False, markup=False, emoji=False)

    def attach_log(self, *paths: Path) -> None:
        """Append to `paths` what has been said so far, and from now on everything, without colour."""
        self._logs = paths
        for text in self._told:
            self._write_log(text)
        self._told.clear()

    def line(self, text: str = "") -> None:
        """One line."""
        text = clean(text)
        self._write_log(text)
        if self.mode != "silent":
            self._show(text)

    def note(self, text: str) -> None:
        """Text for the log alone, such as the error that ends a run and is shown elsewhere."""
        self._write_log(clean(text))

    def warn(self, text: str) -> None:
        """`warning: text`, on standard error; shown with --quiet too."""
        text = f"warning: {clean(text)}"
        self._write_log(text)
        if self._console is not None:
            self._console.print(text, style="yellow", soft_wrap=True)
        else:
            _print(text, sys.stderr)

    def fields(self, rows: Sequence[tuple[str, str]]) -> None:
        """The header block: labels in a column, values beside them."""
        width = max((text_width(label) for label, _ in rows), default=0) + 2
        for label, value in rows:
            self.line((pad(clean(label), width) + value).rstrip())

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
        """A table a person can paste: aligned columns under an optional title."""
        if title:
            self.line(title)
        flat = [[clean(cell) for cell in row] for row in rows]
        for text in aligned([clean(column) for column in columns], flat):
            self.line(text)

    @contextmanager
    def progress(self, total: int, unit: str = "img") -> Iterator[Bar]:
        """A bar with percent and text on a terminal; elsewhere (and in the log) one line every five seconds."""
        plain = PlainProgress(total, unit, self._plain_progress_line)
        if self._console is None:
            yield Bar(plain.update)
            plain.close()
            return
        from rich.live import Live

        line = DrawnProgress(total)
        stderr = is_terminal(sys.stderr)  # else libraries write there undisturbed
        with Live(line, console=self._console, transient=True, redirect_stderr=stderr):

            def show(done: int, text: str, parts: Sequence[str]) -> None:
                line.update(done, text, parts)
                plain.update(done, text, parts)

            yield Bar(show)
        plain.close()

    def _plain_progress_line(self, text: str) -> None:
        self._write_log(text)
        if self.mode == "plain":
            self._show(text)

    def _show(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, soft_wrap=True)
        else:
            self._outlet.write(text + "\n")
        if self._outlet.full and not self._warned:
            self._warned = True
            self.warn(f"standard output lacks what follows: {self._outlet.lost}")

    def _write_log(self, text: str) -> None:
        if not self._logs:
            self._told.append(text)
        elif self._outlet.lost and not self._missed:
            self._missed = True
            self._write_log(f"nobody reads the output any more ({self._outlet.lost}); the work goes on")
        for path in self._logs:
            with path.open("a", encoding="utf-8", errors="replace") as log:
                log.write(text + "\n")


def reporter(*, quiet: bool, as_json: bool) -> Reporter:
    """The Reporter of a command: silent with --quiet, plain on standard error with --json, else by the terminal."""
    if quiet:
        return Reporter("silent", sys.stderr)
    if as_json:
        return Reporter("plain", sys.stderr)
    return Reporter("rich" if _draws(sys.stdout) else "plain", sys.stdout)


def _draws(stream: TextIO | None) -> bool:
    """Whether a line that was written can be drawn again."""
    return is_terminal(stream) and os.environ.get("TERM") not in ("dumb", "unknown")


def show_starting() -> None:
    """A word on a terminal, so that nobody waits before a blank screen while torch loads; what follows erases it."""
    global _starting
    if _draws(sys.stdout) and not _starting:
        _print("starting …", sys.stdout, end="\r")
        _starting = True


def _erase_starting() -> None:
    global _starting
    if _starting:
        _starting = False
        Outlet(sys.stdout).write("\x1b[K")


def show_waiting(text: str) -> None:
    """What is waited for, on standard error if that is a terminal."""
    if is_terminal(sys.stderr):
        _print(clean(text), sys.stderr)


def show_error(error: CikdError) -> None:
    """`error: ...` and `hint: ...` on standard error; a stop that was asked for is told without these words."""
    stopped = error.exit_code == EXIT_INTERRUPTED
    over = "\r" if stopped and is_terminal(sys.stderr) else ""  # the ^C that a terminal shows
    _print(over + ("" if stopped else "error: ") + clean(error.message), sys.stderr)
    if error.hint:
        _print(("" if stopped else "hint: ") + clean(error.hint), sys.stderr)


def show_output(text: str) -> None:
    """What a script reads, on standard output: the one JSON object of --json, or the version.

    Raises CikdError when it cannot be delivered.
    """
    lost = _print(text, sys.stdout)
    if lost:
        raise CikdError(f"The result could not be written to standard output: {lost}", exit_code=EXIT_FAILED)


def _print(text: str, stream: TextIO | None, end: str = "\n") -> str:
    """One line; why it could not be written, or nothing."""
    _erase_starting()
    outlet = Outlet(stream)
    outlet.write(text + end)
    return outlet.lost
