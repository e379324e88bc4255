"""Progress: on a terminal one line that is drawn again and again, what matters most first; elsewhere a few lines."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cikd_cli.text import clean, text_width

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

PLAIN_SECONDS = 5.0  # between two lines where the output is not a terminal
LONGEST, SHORTEST = 24, 8  # columns of the bar; where there is less room there is none
GAP = "  "


class Bar:
    """The handle a progress context gives: `update(done, text)` with `done` out of the total."""

    def __init__(self, show: Callable[[int, str, Sequence[str]], None]) -> None:
        self._show = show

    def update(self, done: int, text: str = "", *parts: str) -> None:
        """Say that `done` units are finished; `text` is always shown, and of `parts`, best first, what has room.

        The first part has its place beside the percent; it may be empty.
        """
        self._show(done, clean(text), [clean(part) for part in parts])


class DrawnProgress:
    """What is drawn again and again: the latest state, as wide as the terminal is at that moment."""

    def __init__(self, total: int) -> None:
        self._total = max(total, 1)
        self._share, self._text, self._parts = 0.0, "", list[str]()

    def update(self, done: int, text: str, parts: Sequence[str]) -> None:
        """Take what is to be drawn next."""
        self._share, self._text, self._parts = min(1.0, done / self._total), text, list(parts)

    def __rich_console__(self, _: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        width = options.max_width - 2  # so that the ^C of a Ctrl-C does not begin another line
        line = progress_line(width, self._share, self._text, self._parts, ascii_only=options.ascii_only)
        yield Text(line, no_wrap=True, overflow="crop")


class PlainProgress:
    """Turns frequent updates into a line every PLAIN_SECONDS, and a last one if there was any before."""

    def __init__(self, total: int, unit: str, write: Callable[[str], None]) -> None:
        self._total, self._unit, self._write = total, unit, write
        self._written = time.monotonic()
        self._lines = 0
        self._latest: str | None = None

    def update(self, done: int, text: str, parts: Sequence[str]) -> None:
        """Write a line if the last one was long ago."""
        percent = 100 * done // max(self._total, 1)
        told = "  ".join(filter(None, (f"{done:,}/{self._total:,} {self._unit}", text, *parts)))
        self._latest = f"{percent:3d}%  {told}"
        if time.monotonic() - self._written >= PLAIN_SECONDS:
            self._flush()

    def close(self) -> None:
        """Write the last state."""
        if self._lines:
            self._flush()

    def _flush(self) -> None:
        if self._latest is not None:
            self._write(self._latest)
            self._written, self._latest = time.monotonic(), None
            self._lines += 1


def progress_line(width: int, share: float, head: str, parts: Sequence[str] = (), *, ascii_only: bool = False) -> str:
    """`head`, a bar, the percent of `share`, and of `parts`, the most important one first, those that `width` holds.

    The first part is shown wherever head and percent leave room for it. The bar goes next to last.
    """
    kept = [text for text in (head, f"{int(100 * share):3d}%") if text]
    for number, part in enumerate(parts):
        room = width - SHORTEST - len(GAP) if number else width
        if part and text_width(GAP.join([*kept, part])) > room:
            break
        kept += [part] if part else []
    left = width - text_width(GAP.join(kept)) - len(GAP)
    if left >= SHORTEST:
        kept.insert(1 if head else 0, _bar(min(left, LONGEST), share, "#-" if ascii_only else "━─"))
    return _cropped(GAP.join(kept), width)


def _bar(width: int, share: float, strokes: str) -> str:
    done = int(width * share)
    return strokes[0] * done + strokes[1] * (width - done)


def _cropped(text: str, width: int) -> str:
    while text_width(text) > width:
        text = text[:-1]
    return text
