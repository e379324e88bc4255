"""model_card.md: what a finished student is, said beside its weights by `cikd eval`."""

from pathlib import Path
from typing import Any

from cikd_cli import __version__
from cikd_cli.files import write_atomically
from cikd_cli.render import render
from cikd_cli.runs import RunDir


def write_card(run: RunDir, columns: list[str], rows: list[list[str]]) -> Path:
    """Write the card of a finished lm run with the table of its evaluation; returns its path."""
    record = run.record
    values: dict[str, Any] = {
        "name": run.path.name,
        "version": __version__,
        "run": str(run.path),
        "student": record["model"],
        "data": record["data"],
        "facts": [
            (
                "trained on",
                f"{record['hardware']['device']}, torch {record['versions']['torch']}, seed {record['seed']}",
            ),
            ("training time", f"{record['result']['seconds']:.0f} s"),
        ],
        "columns": columns,
        "rows": rows,
        "lineage": [(entry["stage"], entry["path"], entry["sha256"]) for entry in record["parents"]],
        "config": run.config(),
    }
    card = run.path / "model_card.md"
    write_atomically(card, render("model_card.md.j2", values).encode())
    return card
