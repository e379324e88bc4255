"""The table at the end of `cikd run`, and its page."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cikd_cli import __version__
from cikd_cli.files import write_atomically
from cikd_cli.render import data_uri, render
from cikd_cli.reports.plots import History, plot_curves
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.stages import STAGES
from cikd_cli.text import quantity

COLUMNS = ("", "top-1", "top-5", "of teacher", "params", "MACs", "epochs", "seconds")
LABELS_ONLY = "same, labels only"  # the table fits 80 columns

PICTURES = (  # (what drew it, title, caption)
    (
        "curves",
        "Learning curves",
        "Each term of each stage's loss, and the accuracy on the images that its title names.",
    ),
    (
        "mad",
        "Mean attention distance",
        "How far each head looks, in pixels: a dot a head, a column a block, a colour a network, the line the mean "
        "of a block's heads; dashed: a head that looks everywhere alike.",
    ),
    (
        "cka",
        "Similarity to the teacher",
        "Unbiased linear CKA of every layer of the student with every layer of the teacher.",
    ),
    ("eval", "Confusion matrix", "Rows: true classes; columns: what the student said; test images."),
)


def rows(runs: Mapping[str, RunDir], evaluations: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    """One row a network, from the students' `eval` summaries; seconds of training, ALI's counted with the student's."""
    student, *_ = evaluations
    taught = [run for name, run in runs.items() if name not in evaluations or name == student]
    teacher = evaluations[student]["teacher"]
    table = [_row(_title(taught[0]), teacher, teacher, taught[:1])]
    table.append(_row(_title(taught[-1]), evaluations[student], teacher, taught[1:]))
    others = [(name, evaluation) for name, evaluation in evaluations.items() if name != student]
    return table + [_row(LABELS_ONLY, evaluation, teacher, [runs[name]]) for name, evaluation in others]


def write(
    runs: Mapping[str, RunDir], table: list[list[str]], argv: Sequence[str], analyses: Mapping[str, Mapping[str, Any]]
) -> Path:
    """report.html in the student's run, carrying its pictures; returns its path.

    argv: the command that made it.  analyses: what eval, mad and cka returned, by name; their "files" are shown.
    """
    run = _student(runs)
    curves = plot_curves(run.analysis / "curves", [history(name, made) for name, made in runs.items()])
    drawn = {"curves": curves} | {name: summary["files"] for name, summary in analyses.items()}
    pictures = [
        {"title": title, "src": data_uri(_picture(drawn[name])), "alt": title, "caption": caption}
        for name, title, caption in PICTURES
    ]
    file = run.path / "report.html"
    write_atomically(file, page(runs, table, pictures, argv).encode())
    return file


def page(
    runs: Mapping[str, RunDir], table: list[list[str]], pictures: list[dict[str, str]], argv: Sequence[str]
) -> str:
    """The text of report.html."""
    run = _student(runs)
    data, hardware = run.record.data, run.record.hardware
    values = {
        "title": f"cikd on {Path(data.name).name}",
        "version": __version__,
        "created": str(run.record.finished),
        "facts": [
            ("data", f"{data.train:,} training and {data.test:,} test images, {data.classes} classes"),
            ("split", f"{data.split}, fingerprint {data.fingerprint[:12]}"),
            ("seed", str(run.record.seed)),
            ("machine", f"{hardware.device}, {hardware.cpus} cores, torch {run.record.versions['torch']}"),
        ],
        "columns": COLUMNS,
        "rows": table,
        "pictures": pictures,
        "runs": [
            (_title(made) if name == STAGES[made.stage].prefix else LABELS_ONLY, made.path.name, made.sha256)
            for name, made in runs.items()
        ],
        "commands": [shlex.join(["cikd", *argv[1:]])],
    }
    return render("report.html.j2", values)


def _title(run: RunDir) -> str:
    return STAGES[run.stage].title


def _student(runs: Mapping[str, RunDir]) -> RunDir:
    """The last of the runs that bears the name of its stage: not the baseline, which is named apart."""
    return [run for name, run in runs.items() if name == STAGES[run.stage].prefix][-1]


def _picture(files: Sequence[str | Path]) -> Path:
    return next(path for path in map(Path, files) if path.suffix == ".png")


def history(name: str, run: RunDir) -> History:
    """The terms and scores of a run, epoch by epoch."""
    metrics = run.metrics()

    def series(key: str) -> list[tuple[float, float]]:
        return [(row["epoch"], row[key]) for row in metrics if row.get(key) is not None]

    terms = [term for term in ("ce", "tckd", "nckd", "qk", "vv") if series(term)]
    scores = [score for score in ("val_top1", "test_top1") if series(score)]
    return History(name, {term: series(term) for term in terms}, {score: series(score) for score in scores})


def _row(title: str, evaluation: Mapping[str, Any], teacher: Mapping[str, Any], runs: list[RunDir]) -> list[str]:
    return [
        title,
        f"{evaluation['top1']:.1f}",
        f"{evaluation['top5']:.1f}" if "top5" in evaluation else "",
        f"{100 * evaluation['top1'] / teacher['top1']:.1f} %" if teacher["top1"] else "",
        quantity(evaluation["params"]),
        quantity(evaluation["macs"]),
        " + ".join(str(run.result.epochs) for run in runs),
        f"{sum(float(run.result.seconds) for run in runs):.0f}",
    ]
