"""The progress line of a terminal: what matters most first, as much of it as fits, and never more than one line."""

import unicodedata
from collections.abc import Sequence

LONGEST, SHORTEST = 24, 8  # columns of the bar; where there is less room there is none
GAP = "  "


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


def text_width(text: str) -> int:
    """The columns that text takes on a terminal."""
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _bar(width: int, share: float, strokes: str) -> str:
    done = int(width * share)
    return strokes[0] * done + strokes[1] * (width - done)


def _cropped(text: str, width: int) -> str:
    while text_width(text) > width:
        text = text[:-1]
    return text
