"""model_card.md: what a finished student is, said beside its weights by `cikd eval`.

A card is handed on with the weights, so it says nothing of the places on the machine that made it: runs and data go by
their names, and a knob that takes free text, which may be a path, is left out.
"""

from pathlib import Path
from typing import Any

from cikd_cli import __version__
from cikd_cli.files import write_atomically
from cikd_cli.render import render
from cikd_cli.runs.ancestry import entries
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.names import data_names
from cikd_cli.settings.parse import kinds
from cikd_cli.settings.stages import STAGES, STUDENT
from cikd_cli.text import clean


def write_card(run: RunDir, top1: float, columns: list[str], rows: list[list[str]]) -> Path:
    """Write the card of a finished lm run with the table of its evaluation, without paths; returns its path.

    top1: in percent, on the test images.
    """
    record = run.record
    name, distilled = Path(record.data.name).name, run.config().get("distill", True)
    values: dict[str, Any] = {
        "header": header(run.path.name, record.data.name, top1, distilled=distilled).split("\n"),
        "name": run.path.name,
        "version": __version__,
        "student": record.model.model_dump(),
        "data": record.data.model_dump() | {"name": name},
        "facts": [
            ("trained on", f"{record.hardware.device}, torch {record.versions['torch']}, seed {record.seed}"),
            ("training time", f"{run.result.seconds:,.0f} s"),
        ],
        "columns": columns,
        "rows": rows,
        "lineage": [(entry.stage, Path(entry.path).name, entry.sha256) for entry in record.parents],
        "how": _how(run),
        "config": _settings(run),
    }
    card = run.path / "model_card.md"
    write_atomically(card, render("model_card.md.j2", values).encode())
    return card


def header(name: str, data: str, top1: float, *, distilled: bool) -> str:
    """What huggingface.co reads of a card, as YAML; no licence, as that of weights and images is not known here.

    name: the run's.  data: a set by its name, or a folder, which is nobody's data set on the hub.
    """
    from huggingface_hub import EvalResult, ModelCardData

    known, name = data in data_names(), clean(name)
    accuracy = EvalResult(
        task_type="image-classification",
        dataset_type=data if known else "imagefolder",
        dataset_name=clean(Path(data).name),
        dataset_split="test",
        metric_type="accuracy",
        metric_name="top-1 accuracy",
        metric_value=round(top1 / 100, 4),  # a share, as the hub's metric of this name is
    )
    card = ModelCardData(
        library_name="cikd",
        pipeline_tag="image-classification",
        tags=["image-classification", *(["knowledge-distillation"] if distilled else [])],
        datasets=[data] if known else None,
        metrics=["accuracy"],
        model_name=name,
        eval_results=[accuracy],
    )
    return card.to_yaml()


def _settings(run: RunDir) -> dict[str, Any]:
    """The run's knobs, without those that take free text."""
    knobs = STAGES[run.stage].config
    return {
        key: value for key, value in run.config().items() if key in knobs.model_fields and str not in kinds(knobs, key)
    }


def _how(run: RunDir) -> str:
    """What the student learned from, in the order it did."""
    steps = [STAGES[entry.stage].learns for entry in entries(run, STUDENT)]
    steps.append(STAGES[run.stage].learns if run.config().get("distill", True) else "labels")
    return ", then ".join(filter(None, steps))
