"""Text for people: what a terminal may be shown, numbers as they are said, columns."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

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


def listed(names: Iterable[str], count: int | None = None) -> str:
    """Up to five names, and how many more; count: of all, where `names` are the first of them."""
    names = list(names)
    more = (count or len(names)) - 5
    return ", ".join(names[:5]) + (f" and {more:,} more" if more > 0 else "")


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines: two spaces between columns; columns of numbers are aligned to the right."""
    cells = [list(columns), *(list(row) for row in rows)]
    widths = [max(text_width(row[i]) for row in cells) for i in range(len(columns))]
    right = [bool(rows) and all(not row[i] or row[i][0].isdigit() for row in rows) for i in range(len(columns))]
    return ["  ".join(map(pad, row, widths, right)).rstrip() for row in cells]


def text_width(text: str) -> int:
    """The columns that text takes on a terminal."""
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


def pad(text: str, width: int, right: bool = False) -> str:
    """Text in a column of this width, at its right or its left."""
    space = " " * (width - text_width(text))
    return space + text if right else text + space
