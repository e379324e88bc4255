"""`cikd eval RUN`: how good, how large and how fast a run's network is, with its teacher beside it."""

from pathlib import Path
from typing import Any

import torch

from cikd_cli.analysis import cost
from cikd_cli.analysis.scores import score
from cikd_cli.console import Reporter
from cikd_cli.engine.precision import choose_precision
from cikd_cli.engine.predict import predict
from cikd_cli.errors import CikdError
from cikd_cli.reports.card import write_card
from cikd_cli.reports.plots import plot_confusion
from cikd_cli.runs.directory import RunDir, open_classifier
from cikd_cli.settings.analyses import EvalConfig
from cikd_cli.settings.request import Request
from cikd_cli.settings.stages import STUDENT
from cikd_cli.stages.analysis import Analysis, Images, begin
from cikd_cli.stages.results import image_words, read_result, result_stem, save_result
from cikd_cli.stages.subjects import Subject, open_run, teacher_of
from cikd_cli.text import listed, quantity

Result = dict[str, Any]

NUMBERS = ("top1", "top5", "balanced_accuracy", "params", "params_trainable", "macs")
BESIDE = ("run", *NUMBERS, "latency_ms")  # of a teacher


def run(request: Request) -> Result:
    """Score the run and its teacher, write eval.json and confusion.{json,png,svg}, print a table; the summary."""
    analysis = begin(request, EvalConfig)
    out, precision = analysis.out, choose_precision(analysis.config.precision, analysis.device)
    run = open_classifier(request.runs[0])
    subject = open_run(run)
    images = analysis.open_images(run, split=analysis.config.split, labelled=True)
    _check_classes(subject, images)
    result = _score(subject, images, analysis, precision)
    teacher = _score_teacher(run, images, analysis, precision)
    result["teacher"] = teacher and {key: teacher[key] for key in BESIDE}
    if teacher:
        result["retained"] = 100 * result["top1"] / teacher["top1"] if teacher["top1"] else None
        result["size_ratio"] = teacher["params"] / result["params"]
    words = [*image_words(images), *([] if images.split == "test" else [images.split])]
    files = _write(run, result, words, out)
    columns, rows = _table(result, teacher)
    _print(out, images, result, columns, rows)
    summary = {key: value for key, value in result.items() if key not in ("classes", "confusion")}
    summary = analysis.finish(summary, *files)
    if run.gives(STUDENT) and not words:
        by_name = _table(_by_name(result), teacher and _by_name(teacher))
        out.fields([("card", str(write_card(run, result["top1"], *by_name)))])
    return summary


def _score(subject: Subject, images: Images, analysis: Analysis[EvalConfig], precision: str) -> Result:
    """Accuracies in percent, parameters, MACs, and milliseconds per image."""
    spec, device = subject.spec, analysis.device
    logits, targets = predict(
        subject.model.to(device),
        images.batches(subject),
        mean=spec.mean,
        std=spec.std,
        device=device,
        precision=precision,
    )
    return {
        "run": subject.label,
        **_conditions(subject, images, precision),
        **score(logits, targets).as_dict(spec.classes),
        "params": cost.parameters(subject.model),
        "params_trainable": cost.parameters(subject.model, trainable=True),
        "macs": cost.macs(subject.model, spec.image_size),
        "image_size": spec.image_size,
        "latency_ms": _latency(subject, analysis),
    }


def _score_teacher(run: RunDir, images: Images, analysis: Analysis[EvalConfig], precision: str) -> Result | None:
    """What the teacher's own eval.json says if it was made under the same conditions, else its scores from here.

    A teacher that is gone is warned of, as the student can be scored without it.
    """
    try:
        found = teacher_of(run)
    except CikdError as error:
        analysis.out.warn(f"no teacher beside it: {error.message}")
        return None
    if found is None:
        return None
    teacher = open_run(found)
    known = read_result(found.path / "analysis" / "eval.json") or {}
    whole = all(isinstance(known.get(key), int | float) for key in NUMBERS)
    if not whole or not _conditions(teacher, images, precision).items() <= known.items():
        return _score(teacher, images, analysis, precision)
    return known | {"run": teacher.label, "latency_ms": _latency(teacher, analysis)}


def _conditions(subject: Subject, images: Images, precision: str) -> Result:
    return {
        "split": images.split,
        "data": images.source.name,
        "fingerprint": images.source.fingerprint,
        "weights_sha256": subject.weights_sha256,
        "precision": precision,
    }


def _latency(subject: Subject, analysis: Analysis[EvalConfig]) -> dict[str, float] | None:
    """Milliseconds of one image, by device; None if it was not wanted."""
    if not analysis.config.latency:
        return None
    devices = ["cpu", *(["cuda"] if analysis.device.type == "cuda" else [])]
    return {name: cost.latency(subject.model, subject.spec.image_size, name) for name in devices}


def _check_classes(subject: Subject, images: Images) -> None:
    known, found = subject.spec.classes, images.source.classes
    if known != found:
        raise CikdError(
            f"{subject.label} knows {len(known)} classes ({listed(known)}), {images.source.name} has {len(found)} "
            f"({listed(found)}).",
            hint=f"cikd finetune-teacher --data {images.source.name} starts a curriculum for these",
        )


def _write(run: RunDir, result: Result, words: list[str], out: Reporter) -> list[Path]:
    """eval.json and the confusion files; words: what their names say of other data, or another split than test."""
    names = [entry["name"] for entry in result["classes"]]
    scores = {key: value for key, value in result.items() if key != "confusion"}
    file = save_result(result_stem("eval", run, words), scores, out, how=["images", "precision"])
    stem = result_stem("confusion", run, words)
    counts = save_result(stem, {"classes": names, "confusion": result["confusion"]}, out)
    return [file, counts, *plot_confusion(stem, result["confusion"], names)]


def _by_name(scores: Result) -> Result:
    """Scores that name their run without its place."""
    return scores | {"run": Path(scores["run"]).name}


def _table(result: Result, teacher: Result | None) -> tuple[list[str], list[list[str]]]:
    """The columns, and a row for the teacher, if there is one, and the run."""
    devices = list(result["latency_ms"] or ())
    columns = ["", "top-1", "top-5", "balanced", "params", "MACs", *(f"ms on {_device(name)}" for name in devices)]
    networks = (("teacher", teacher), ("student" if teacher else "run", result))
    return columns, [[f"{label} {scores['run']}", *_cells(scores, devices)] for label, scores in networks if scores]


def _print(out: Reporter, images: Images, result: Result, columns: list[str], rows: list[list[str]]) -> None:
    out.table(columns, rows, title=images.describe())
    if result.get("retained") is not None:
        out.line(f"{result['retained']:.1f} % of the teacher's top-1, {result['size_ratio']:.1f} × smaller")
    worst = sorted((entry for entry in result["classes"] if entry["images"]), key=lambda entry: entry["accuracy"])[:5]
    out.table(
        ["least accurate", "top-1", "images"],
        [[entry["name"], f"{entry['accuracy']:.1f}", f"{entry['images']:,}"] for entry in worst],
    )


def _cells(scores: Result, devices: list[str]) -> list[str]:
    accuracies = [f"{scores[key]:.1f}" for key in ("top1", "top5", "balanced_accuracy")]
    size = [quantity(scores["params"]), quantity(scores["macs"])]
    return [*accuracies, *size, *(f"{scores['latency_ms'][name]:.1f}" for name in devices)]


def _device(name: str) -> str:
    return "CPU" if name == "cpu" else torch.cuda.get_device_name()
