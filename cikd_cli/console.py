"""Everything a person sees: the Reporter (rich, plain or silent), errors, and the JSON summary.

Only this file writes to the terminal. Text may come from users (class names, paths), so nothing is read as markup and
control characters never reach the terminal.
"""

import re
import sys
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from cikd_cli import elastic
from cikd_cli.errors import CikdError

if TYPE_CHECKING:
    from rich.console import Console

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
    widths = [max(_width(row[i]) for row in cells) for i in range(len(columns))]
    right = [bool(rows) and all(not row[i] or row[i][0].isdigit() for row in rows) for i in range(len(columns))]
    return ["  ".join(map(_pad, row, widths, right)).rstrip() for row in cells]


class Bar:
    """The handle a progress context gives: `update(done, text)` with `done` out of the total."""

    def __init__(self, show: Callable[[int, str], None]) -> None:
        self._show = show

    def update(self, done: int, text: str = "") -> None:
        """Say that `done` units are finished; `text` is shown beside the bar."""
        self._show(done, clean(text))


class Reporter:
    """Lines, header fields, tables and progress for people; `attach_log` also appends them to files."""

    def __init__(self, mode: Mode = "plain", stream: TextIO | None = None) -> None:
        self.mode = mode
        self.stream = sys.stdout if stream is None else stream
        self._logs: tuple[Path, ...] = ()
        self._told: deque[str] = deque(maxlen=50)  # before there is a log: the header of a run, if there is to be one
        self._console: Console | None = None
        _erase_starting()
        if mode == "rich":
            from rich.console import Console as RichConsole

            self._console = RichConsole(file=self.stream, highlight=False, markup=False, emoji=False)

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
        width = max((_width(label) for label, _ in rows), default=0) + 2
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
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (BarColumn(24), TaskProgressColumn(markup=False), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task("", total=total)

            def show(done: int, text: str) -> None:
                bars.update(task, completed=done, description=text)
                plain.update(done, text)

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
            _print(text, self.stream)

    def _write_log(self, text: str) -> None:
        if not self._logs:
            self._told.append(text)
        for path in self._logs:
            with path.open("a", encoding="utf-8", errors="replace") as log:
                log.write(text + "\n")


class _PlainProgress:
    """Turns frequent updates into a line every PLAIN_SECONDS, and a last one if there was any before."""

    def __init__(self, total: int, unit: str, write: Callable[[str], None]) -> None:
        self._total, self._unit, self._write = total, unit, write
        self._written = time.monotonic()
        self._lines = 0
        self._latest: str | None = None

    def update(self, done: int, text: str) -> None:
        percent = 100 * done // max(self._total, 1)
        self._latest = f"{percent:3d}%  {done:,}/{self._total:,} {self._unit}  {text}".rstrip()
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
    return Reporter("rich" if sys.stdout.isatty() else "plain", sys.stdout)


def show_starting() -> None:
    """A word on a terminal, so that nobody waits before a blank screen while torch loads; what follows erases it."""
    global _starting
    if sys.stdout.isatty() and not _starting and elastic.speaks():
        _print("starting …", sys.stdout, end="\r")
        _starting = True


def _erase_starting() -> None:
    global _starting
    if _starting:
        _starting = False
        sys.stdout.write("\x1b[K")
        sys.stdout.flush()


def show_waiting(text: str) -> None:
    """What is waited for, on standard error if that is a terminal."""
    if sys.stderr.isatty():
        _print(clean(text), sys.stderr)


def show_error(error: CikdError) -> None:
    """`error: ...` and `hint: ...` on standard error."""
    _print(f"error: {clean(error.message)}", sys.stderr)
    if error.hint:
        _print(f"hint: {clean(error.hint)}", sys.stderr)


def show_output(text: str) -> None:
    """What a script reads, on standard output: the one JSON object of --json, or the version."""
    _print(text, sys.stdout)


def _print(text: str, stream: TextIO, end: str = "\n") -> None:
    _erase_starting()
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding) + end)
    stream.flush()


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
