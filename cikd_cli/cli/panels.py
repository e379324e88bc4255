"""What `--help` looks like: usage, text, and flags or commands in boxes; drawn here, as rich is slow to load."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from cikd_cli.text import clean

Rows = Sequence[tuple[str, str]]

WIDEST = 120  # longer lines are hard to read
_NAMES = 30  # a longer name stands on a line of its own
_LEAST_TEXT = 24  # columns for the text of a table; where there are fewer, it goes below its row
_BOXES = (
    ("╭", "─", "╮", "│", "╰", "╯"),
    ("+", "-", "+", "|", "+", "+"),
)  # the second where the first cannot be written
_SHORT = re.compile(r"\[[^\[\]]{1,16}\]")  # a default, which is kept on one line
_BOLD, _DIM, _END = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def page(usage: str, text: str, panels: Mapping[str, Rows], note: str = "") -> str:
    """The whole of a help text, as wide as the terminal; panels: title -> (name, what it does)."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    lines = [usage, ""]
    for example, group in groupby(filter(None, text.split("\n")), key=lambda line: line.strip().startswith("cikd ")):
        for line in group:
            parts = wrapped(line, width - (6 if example else 2))
            lines += [f"  {parts[0]}", *(f"      {part}" for part in parts[1:])] if example else parts
        lines.append("")
    names = [name for rows in panels.values() for name, _ in rows]
    left = max((len(name) for name in names if len(name) <= _NAMES), default=_NAMES)
    for title, rows in panels.items():
        lines += _box(title, rows, left, width)
    return "\n".join([*lines, *(wrapped(note, width - 2) if note else ()), ""])


def flag_panels(command: Any, ctx: Any, shown: frozenset[str] | None) -> tuple[dict[str, Rows], int]:
    """The arguments and flags of a Typer command by panel, `Options` last, and how many flags are left out.

    shown: the parameters to show beside the help's own; None: all.
    """
    panels: dict[str, list[tuple[str, str]]] = {}
    left_out = 0
    for parameter in command.get_params(ctx):
        is_own = parameter.name in ctx.help_option_names or not getattr(parameter, "rich_help_panel", None)
        if parameter.param_type_name == "option" and not is_own and shown is not None and parameter.name not in shown:
            left_out += 1
        elif not getattr(parameter, "hidden", False):
            title = getattr(parameter, "rich_help_panel", None)
            title = title or ("Arguments" if parameter.param_type_name == "argument" else "Options")
            panels.setdefault(title, []).append((_name(parameter), _does(parameter)))
    own = panels.pop("Options", None)
    return {**panels, **({"Options": own} if own else {})}, left_out


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose last column is text, on as many lines as the terminal's width asks for."""
    cells = [columns, *([clean(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns) - 1)]
    room = shutil.get_terminal_size().columns - sum(widths) - 2 * len(widths)
    beside = room >= _LEAST_TEXT
    lines = []
    for *values, text in cells:
        before = "  ".join(value.ljust(width) for value, width in zip(values, widths, strict=True)) + "  "
        if beside:
            first, *more = wrapped(text, room) or [""]
            lines += [(before + first).rstrip(), *(" " * len(before) + line for line in more)]
        else:
            lines += [before.rstrip(), *(" " * 6 + line for line in wrapped(text, room + len(before) - 6))]
    return lines


def wrapped(text: str, width: int) -> list[str]:
    """`text` on lines of at most `width` letters; a short default is kept together."""
    kept = _SHORT.sub(lambda found: found[0].replace(" ", "\xa0"), text)
    lines = textwrap.wrap(kept, max(width, 20), break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]


def _name(parameter: Any) -> str:
    """`--batch-size INT`, `--qk / --no-qk`, `RUN...`."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    words = ", ".join(sorted(parameter.opts, key=len))
    if parameter.is_flag:
        return " / ".join([words, *parameter.secondary_opts])
    return f"{words} {parameter.metavar or 'TEXT'}"


def _does(parameter: Any) -> str:
    text = parameter.help or ""
    if getattr(parameter, "show_envvar", False) and parameter.envvar:
        text += f" [env var: {parameter.envvar}]"
    return text


def _box(title: str, rows: Rows, left: int, width: int) -> list[str]:
    corner, line, end, side, foot, last = _BOXES[0] if _can_write("".join(_BOXES[0])) else _BOXES[1]
    inner = width - 4
    body = []
    for name, text in rows:
        lines = wrapped(text, inner - left - 2) or [""]
        if len(name) > left:
            body.append(_painted(name, _BOLD, inner))
        for number, words in enumerate(lines):
            beside = name if number == 0 and len(name) <= left else ""
            body.append(_painted(beside, _BOLD, left) + "  " + words.ljust(inner - left - 2))
    side = _painted(side, _DIM, 1)
    return [
        _painted(f"{corner}{line} {title} ".ljust(width - 1, line) + end, _DIM, width),
        *(f"{side} {text} {side}" for text in body),
        _painted(f"{foot}{line * (width - 2)}{last}", _DIM, width),
    ]


def _painted(text: str, style: str, width: int) -> str:
    """`text` filled up to `width`, in a style where a terminal takes one."""
    filled = text.ljust(width)
    return f"{style}{text}{_END}{filled[len(text) :]}" if text and _takes_styles() else filled


def _takes_styles() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _can_write(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
