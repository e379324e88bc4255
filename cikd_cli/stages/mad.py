"""`cikd mad RUN...`: mean attention distance of every head of every block, several networks side by side."""

from typing import Any

from cikd_cli.analysis.mad import attention_distances, uniform_distance
from cikd_cli.reports.plots import Distances, plot_mad
from cikd_cli.settings.analyses import MadConfig
from cikd_cli.settings.request import Request
from cikd_cli.stages.analysis import Analysis, Images, begin
from cikd_cli.stages.results import image_words, network_words, result_stem, save_result
from cikd_cli.stages.subjects import Subject, check_vit, find_run, open_subject


def run(request: Request) -> dict[str, Any]:
    """Measure, write mad.json, mad.png and mad.svg, print a table; the summary for --json.

    The files go into the first run named; with timm names alone, into the working directory (see `stages/results`).
    """
    analysis = begin(request, MadConfig)
    home = next(filter(None, map(find_run, request.runs)), None)
    images = analysis.open_images(home, most=analysis.config.images)
    subjects = [open_subject(name, image_size=analysis.config.image_size) for name in request.runs]
    for subject in subjects:
        check_vit(subject)
    measured = [_measure(subject, images, analysis) for subject in subjects]
    summary = {
        "runs": measured,
        "images": len(images),
        "data": images.source.name,
        "split": images.split,
        "unit": "px",
    }
    stem = result_stem("mad", home, [*network_words(subjects, home), *image_words(images)])
    file = save_result(stem, summary, analysis.out, how=["images", "split"])
    uniform = {found["uniform"] for found in measured}
    drawn = [Distances(found["run"], found["blocks"]) for found in measured]
    pictures = plot_mad(stem, drawn, uniform=uniform.pop() if len(uniform) == 1 else None)
    analysis.out.line(f"mean attention distance in pixels over {images.describe()}: mean of the heads (least to most)")
    analysis.out.table(["block", *(found["run"] for found in measured)], _rows(measured))
    return analysis.finish(summary, file, *pictures)


def _measure(subject: Subject, images: Images, analysis: Analysis[MadConfig]) -> dict[str, Any]:
    """Pixels, per block and head, and of a head that looks everywhere alike."""
    device, patches = analysis.device, subject.model.patch_embed
    blocks = attention_distances(subject.model.to(device), images.inputs(subject, device))
    return {
        "run": subject.label,
        "blocks": [heads.tolist() for heads in blocks],
        "image_size": subject.spec.image_size,
        "uniform": uniform_distance(patches.grid_size, patches.patch_size),
    }


def _rows(measured: list[dict[str, Any]]) -> list[list[str]]:
    """A row a block: the mean of its heads, and the nearest- and furthest-looking head."""
    depth = max(len(found["blocks"]) for found in measured)
    columns = [[*map(_cell, found["blocks"]), *[""] * (depth - len(found["blocks"]))] for found in measured]
    rows = [[str(block), *cells] for block, cells in enumerate(zip(*columns, strict=True), start=1)]
    return [*rows, ["uniform", *(f"{found['uniform']:.1f}" for found in measured)]]


def _cell(heads: list[float]) -> str:
    return f"{sum(heads) / len(heads):.1f} ({min(heads):.1f} to {max(heads):.1f})"
