"""`cikd mad RUN...`: mean attention distance of every head of every block, several networks side by side."""

from typing import Any

import torch

from cikd_cli.analysis.mad import attention_distances, uniform_distance
from cikd_cli.console import Reporter
from cikd_cli.reports.plots import Distances, plot_mad
from cikd_cli.settings.configs import MadConfig
from cikd_cli.settings.request import Request
from cikd_cli.stages.results import image_words, network_words, result_stem, save_result
from cikd_cli.stages.subjects import (
    Images,
    Subject,
    begin,
    find_run,
    normalised,
    open_images,
    open_subject,
    watched,
)


def run(request: Request) -> dict[str, Any]:
    """Measure, write mad.json, mad.png and mad.svg, print a table; the summary for --json.

    The files go into the first run named; with timm names alone, into the working directory (see `stages/results`).
    """
    config, out, device = begin(request, MadConfig)
    home = next(filter(None, map(find_run, request.runs)), None)
    images = open_images(
        home, data=config.data, data_root=config.data_root, labelled=False, out=out, most=config.images
    )
    if len(images) < config.images:
        out.warn(f"there are only {len(images):,} {images.split} images, not {config.images:,}")
    subjects = [open_subject(name, image_size=config.image_size) for name in request.runs]
    blocks = [_measure(subject, images, config, request.options.workers, device, out) for subject in subjects]
    summary = {
        "runs": [
            {
                "run": subject.label,
                "blocks": distances,
                "image_size": subject.spec.image_size,
                "uniform": _uniform(subject),
            }
            for subject, distances in zip(subjects, blocks, strict=True)
        ],
        "images": len(images),
        "data": images.source.name,
        "split": images.split,
        "unit": "px",
    }
    networks = list(zip(request.runs, subjects, strict=True))
    stem = result_stem("mad", home, [*network_words(networks, home), *image_words(images, home)])
    file = save_result(stem, summary, out, how=["images", "split"])
    uniform = {_uniform(subject) for subject in subjects}
    pictures = plot_mad(
        stem,
        [Distances(subject.label, distances) for subject, distances in zip(subjects, blocks, strict=True)],
        uniform=uniform.pop() if len(uniform) == 1 else None,
    )
    _print(out, subjects, blocks, images)
    out.fields([("pictures", "  ".join(map(str, pictures)))])
    return summary | {"files": [str(path) for path in (file, *pictures)]}


def _measure(
    subject: Subject, images: Images, config: MadConfig, workers: int | None, device: torch.device, out: Reporter
) -> list[list[float]]:
    """Pixels, per block and head."""
    batches = images.batches(subject.spec.image_size, config.batch_size, workers)
    shown = watched(batches, out, total=len(images), text=subject.label)
    model = subject.model.to(device)
    return [heads.tolist() for heads in attention_distances(model, normalised(shown, subject.spec, device))]


def _uniform(subject: Subject) -> float:
    spec = subject.spec
    side = spec.image_size // spec.patch_size
    return uniform_distance((side, side), spec.patch_size)


def _print(out: Reporter, subjects: list[Subject], blocks: list[list[list[float]]], images: Images) -> None:
    """A row a block: the mean of its heads, and the nearest- and furthest-looking head."""
    out.line(f"mean attention distance in pixels over {images.describe()}: mean of the heads (least to most)")
    rows = []
    for block in range(max(map(len, blocks))):
        cells = [_cell(distances[block]) if block < len(distances) else "" for distances in blocks]
        rows.append([str(block + 1), *cells])
    rows.append(["uniform", *(f"{_uniform(subject):.1f}" for subject in subjects)])
    out.table(["block", *(subject.label for subject in subjects)], rows)


def _cell(heads: list[float]) -> str:
    return f"{sum(heads) / len(heads):.1f} ({min(heads):.1f} to {max(heads):.1f})"
