"""metrics.jsonl: a row an epoch, without a gap or a repeat also where a run was resumed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cikd_cli.errors import CikdError
from cikd_cli.files import append, read_text, to_json, write_atomically
from cikd_cli.runs.reading import COPY_AGAIN, MOST_JSON

MOST_NUMBER = 1e100  # pictures of larger ones cannot be drawn


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    """One row more for the run at `path`."""
    append(path / "metrics.jsonl", (to_json(row) + "\n").encode())


def drop_metrics_after(path: Path, epoch: int) -> None:
    """Remove the rows of later epochs, which a resumed run writes again."""
    kept = [row for row in read_metrics(path) if row.get("epoch", 0) <= epoch]
    write_atomically(path / "metrics.jsonl", "".join(to_json(row) + "\n" for row in kept).encode())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of the metrics.jsonl of the run at `path`; a last line torn by a crash is left out.

    Raises:
        CikdError: it cannot be read, or a row is not an epoch's numbers.
    """
    file = path / "metrics.jsonl"
    if not file.exists():
        return []
    try:
        *whole, _torn = read_text(file, most=MOST_JSON).split("\n")
    except (ValueError, OSError) as error:
        raise CikdError(f"{file} is damaged: {error}", hint=COPY_AGAIN) from None
    return [_row(line, f"{file}, line {number}") for number, line in enumerate(whole, start=1) if line]


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CikdError(f"{where} is damaged: {error}", hint=COPY_AGAIN) from None
    if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
        raise CikdError(f"{where} is damaged: it is not an epoch's", hint=COPY_AGAIN)
    for key, value in row.items():
        if value is not None and not (isinstance(value, int | float) and abs(value) <= MOST_NUMBER):
            raise CikdError(f"{where} is damaged: {key!r} is not a number that can be drawn", hint=COPY_AGAIN)
    return row
