"""`cikd eval RUN`: how good, how large and how fast a run's network is, with its teacher beside it."""

from pathlib import Path
from typing import Any

import torch

from cikd_cli.analysis import cost
from cikd_cli.analysis.scores import score
from cikd_cli.console import Reporter, quantity
from cikd_cli.engine.precision import choose_precision
from cikd_cli.engine.predict import predict
from cikd_cli.errors import CikdError
from cikd_cli.reports.card import write_card
from cikd_cli.reports.plots import plot_confusion
from cikd_cli.runs.directory import RunDir, open_classifier
from cikd_cli.settings.configs import EvalConfig
from cikd_cli.settings.request import Request
from cikd_cli.stages.results import image_words, read_result, result_stem, save_result
from cikd_cli.stages.subjects import (
    Images,
    Subject,
    begin,
    open_images,
    open_run,
    teacher_of,
    watched,
)

Result = dict[str, Any]

BESIDE = (
    "run",
    "top1",
    "top5",
    "balanced_accuracy",
    "params",
    "params_trainable",
    "macs",
    "latency_ms",
)  # of a teacher
NUMBERS = BESIDE[1:-1]


def run(request: Request) -> Result:
    """Score the run and its teacher, write eval.json and confusion.{json,png,svg}, print a table; the summary."""
    config, out, device = begin(request, EvalConfig)
    config = config.model_copy(update={"precision": choose_precision(config.precision, device)})
    subject = _open_classifier(request.runs[0])
    assert subject.run is not None
    images = open_images(
        subject.run, data=config.data, data_root=config.data_root, split=config.split, labelled=True, out=out
    )
    _check_classes(subject, images)
    bench = Bench(images, config, device, request.options.workers, out)
    result = bench.score(subject)
    teacher_run = _find_teacher(subject.run, out)
    teacher = bench.judge_teacher(open_run(teacher_run)) if teacher_run else None
    if teacher:
        result["teacher"] = {key: teacher[key] for key in BESIDE}
        result["retained"] = 100 * result["top1"] / teacher["top1"] if teacher["top1"] else None
        result["size_ratio"] = teacher["params"] / result["params"]
    else:
        result["teacher"] = None
    words = [*image_words(images, subject.run), *([] if images.split == "test" else [images.split])]
    files = _write(subject.run, result, words, out)
    columns, rows = _table(result, teacher)
    _print(out, result, columns, rows)
    out.fields([("pictures", "  ".join(str(file) for file in files if file.suffix != ".json"))])
    if subject.run.stage == "lm" and not words:
        by_name = _table(_by_name(result), _by_name(teacher) if teacher else None)
        out.fields([("card", str(write_card(subject.run, *by_name)))])
    summary = {key: value for key, value in result.items() if key not in ("classes", "confusion")}
    return summary | {"files": [str(file) for file in files]}


class Bench:
    """One set of images and settings on which networks are scored alike."""

    def __init__(
        self, images: Images, config: EvalConfig, device: torch.device, workers: int | None, out: Reporter
    ) -> None:
        self._images, self._config, self._device, self._workers, self._out = images, config, device, workers, out

    def score(self, subject: Subject) -> Result:
        """Accuracies in percent, parameters, MACs, and milliseconds per image."""
        spec = subject.spec
        batches = self._images.batches(spec.image_size, self._config.batch_size, self._workers)
        logits, targets = predict(
            subject.model.to(self._device),
            watched(batches, self._out, total=len(self._images), text=subject.label),
            mean=spec.mean,
            std=spec.std,
            device=self._device,
            precision=self._config.precision,
        )
        return {
            "run": subject.label,
            **self._conditions(subject),
            **score(logits, targets).as_dict(spec.classes),
            "params": cost.parameters(subject.model),
            "params_trainable": cost.parameters(subject.model, trainable=True),
            "macs": cost.macs(subject.model, spec.image_size),
            "image_size": spec.image_size,
            "latency_ms": self._latency(subject),
        }

    def judge_teacher(self, teacher: Subject) -> Result:
        """The teacher's own eval.json if it was made under the same conditions, else its scores from here."""
        assert teacher.run is not None
        known = _read_eval(teacher.run)
        conditions = self._conditions(teacher)
        if known is None or any(known.get(key) != value for key, value in conditions.items()):
            return self.score(teacher)
        return known | {"run": teacher.label, "latency_ms": self._latency(teacher)}

    def _conditions(self, subject: Subject) -> Result:
        return {
            "split": self._images.split,
            "data": self._images.source.name,
            "fingerprint": self._images.source.fingerprint,
            "weights_sha256": subject.weights_sha256,
            "precision": self._config.precision,
        }

    def _latency(self, subject: Subject) -> dict[str, float] | None:
        """Milliseconds of one image, by device; None if it was not wanted."""
        if not self._config.latency:
            return None
        devices = ["cpu", *(["cuda"] if self._device.type == "cuda" else [])]
        return {name: cost.latency(subject.model, subject.spec.image_size, name) for name in devices}


def _open_classifier(path: str) -> Subject:
    return open_run(open_classifier(path))


def _check_classes(subject: Subject, images: Images) -> None:
    known, found = subject.spec.classes, images.source.classes
    if known != found:
        raise CikdError(
            f"{subject.label} knows {len(known)} classes ({_some(known)}), {images.source.name} has {len(found)} "
            f"({_some(found)}).",
            hint=f"cikd finetune-teacher --data {images.source.name} starts a curriculum for these",
        )


def _find_teacher(run: RunDir, out: Reporter) -> RunDir | None:
    """The teacher by lineage; a warning if it is gone, as the student can be scored without it."""
    try:
        return teacher_of(run)
    except CikdError as error:
        out.warn(f"no teacher beside it: {error.message}")
        return None


def _read_eval(run: RunDir) -> Result | None:
    known = read_result(run.path / "analysis" / "eval.json")
    whole = known is not None and all(isinstance(known.get(key), int | float) for key in NUMBERS)
    return known if whole else None


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


def _print(out: Reporter, result: Result, columns: list[str], rows: list[list[str]]) -> None:
    out.table(columns, rows, title=f"{result['images']:,} {result['split']} images of {result['data']}")
    if result["teacher"] and result["retained"] is not None:
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


def _some(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
