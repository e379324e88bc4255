"""Everything a person sees: the Reporter (rich, plain or silent), errors, and the JSON summary.

Only this file writes to the terminal, through `outlet`, which outlives its reader. Text may come from users (class
names, paths), so nothing is read as markup and control characters never reach the terminal.
"""

import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, TextIO, cast

from cikd_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, CikdError
from cikd_cli.outlet import Outlet, is_terminal
from cikd_cli.progress import progress_line, text_width

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

Mode = Literal["rich", "plain", "silent"]

PLAIN_SECONDS = 5.0  # between two progress lines when the output is not a terminal
_starting = False  # whether the word of `show_starting` stands on the terminal
_BREAKS = re.compile("[\t\n\v\f\r\x85\u2028\u2029]+")
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    """`text` on one line and without terminal escapes.

    Line breaks and tabs become spaces; control and direction characters and lone surrogates become `?`.
    """
    return _OBEYED.sub("?", _BREAKS.sub(" ", text))


def duration(seconds: float) -> str:
    """`3 h 06 min`, `4 min 20 s`, `12 s`; below ten seconds with one decimal."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def quantity(count: float) -> str:
    """A count in three figures: `119 k`, `5.54 M`, `17.6 G`."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * factor:
            return f"{count / factor:#.3g}".rstrip(".") + f" {unit}"
    return f"{count:g}"


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines: two spaces between columns; columns of numbers are aligned to the right."""
    cells = [list(columns), *(list(row) for row in rows)]
    widths = [max(text_width(row[i]) for row in cells) for i in range(len(columns))]
    right = [bool(rows) and all(not row[i] or row[i][0].isdigit() for row in rows) for i in range(len(columns))]
    return ["  ".join(map(_pad, row, widths, right)).rstrip() for row in cells]


class Bar:
    """The handle a progress context gives: `update(done, text)` with `done` out of the total."""

    def __init__(self, show: Callable[[int, str, Sequence[str]], None]) -> None:
        self._show = show

    def update(self, done: int, text: str = "", *parts: str) -> None:
        """Say that `done` units are finished; `text` is always shown, and of `parts`, best first, what has room.

        The first part has its place beside the percent; it may be empty.
        """
        self._show(done, clean(text), [clean(part) for part in parts])


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
            self.line((_pad(clean(label), width, False) + value).rstrip())

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
        plain = _PlainProgress(total, unit, self._plain_progress_line)
        if self._console is None:
            yield Bar(plain.update)
            plain.close()
            return
        from rich.live import Live

        line = _Line(total)
        stderr = is_terminal(sys.stderr)  # else what libraries write there stays there
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


class _Line:
    """What is drawn again and again: the latest state, as wide as the terminal is at that moment."""

    def __init__(self, total: int) -> None:
        self._total = max(total, 1)
        self._share, self._text, self._parts = 0.0, "", list[str]()

    def update(self, done: int, text: str, parts: Sequence[str]) -> None:
        self._share, self._text, self._parts = min(1.0, done / self._total), text, list(parts)

    def __rich_console__(self, _: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        width = options.max_width - 2  # so that the ^C of a Ctrl-C does not begin another line
        line = progress_line(width, self._share, self._text, self._parts, ascii_only=options.ascii_only)
        yield Text(line, no_wrap=True, overflow="crop")


class _PlainProgress:
    """Turns frequent updates into a line every PLAIN_SECONDS, and a last one if there was any before."""

    def __init__(self, total: int, unit: str, write: Callable[[str], None]) -> None:
        self._total, self._unit, self._write = total, unit, write
        self._written = time.monotonic()
        self._lines = 0
        self._latest: str | None = None

    def update(self, done: int, text: str, parts: Sequence[str]) -> None:
        percent = 100 * done // max(self._total, 1)
        told = "  ".join(filter(None, (f"{done:,}/{self._total:,} {self._unit}", text, *parts)))
        self._latest = f"{percent:3d}%  {told}"
        if time.monotonic() - self._written >= PLAIN_SECONDS:
            self._flush()

    def close(self) -> None:
        if self._lines:
            self._flush()

    def _flush(self) -> None:
        if self._latest is not None:
            self._write(self._latest)
            self._written, self._latest = time.monotonic(), None
            self._lines += 1


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


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - text_width(text))
    return space + text if right else text + space
