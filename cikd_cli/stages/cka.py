"""`cikd cka RUN...`: how alike every layer of a student is to every layer of its teacher."""

from typing import Any

import torch

from cikd_cli.analysis.cka import LEAST_BATCH, compare, diagonal, matched_layers, usable_images
from cikd_cli.console import Reporter
from cikd_cli.errors import CikdError
from cikd_cli.reports.plots import Similarity, plot_cka
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.configs import CkaConfig
from cikd_cli.settings.request import Request
from cikd_cli.stages.results import image_words, network_words, result_stem, save_result
from cikd_cli.stages.subjects import (
    Images,
    Subject,
    begin,
    find_run,
    normalised,
    open_images,
    open_run,
    open_subject,
    teacher_of,
    watched,
)


def run(request: Request) -> dict[str, Any]:
    """Compare, write cka.json, cka.png and cka.svg, print the matched-layer curve; the summary for --json.

    The files go into the first run named; with timm names alone, into the working directory (see `stages/results`).
    """
    config, out, device = begin(request, CkaConfig)
    runs = {name: find_run(name) for name in request.runs}
    home = next(filter(None, runs.values()), None)
    teacher = open_subject(config.teacher) if config.teacher else open_run(_common_teacher(runs))
    images = open_images(
        home or teacher.run, data=config.data, data_root=config.data_root, labelled=False, out=out, most=config.images
    )
    size = min(config.batch_size, len(images))
    used = _usable(images, size, config.images, out)
    students = [open_subject(name) for name in request.runs]
    teacher.model.to(device)
    compared = [_compare(student, teacher, images, size, request.options.workers, device, out) for student in students]
    summary = {
        **compared[0],
        "teacher": teacher.label,
        "images": used,
        "batch_size": size,
        "data": images.source.name,
        "split": images.split,
        "runs": compared,
    }
    networks = list(zip(request.runs, students, strict=True))
    words = network_words(networks, home, teacher=(config.teacher or teacher.label, teacher))
    stem = result_stem("cka", home, [*words, *image_words(images, home or teacher.run)])
    file = save_result(stem, summary, out, how=["images", "batch_size", "split"])
    pictures = plot_cka(
        stem,
        [Similarity(found["student"], found["matrix"], found["diagonal"]) for found in compared],
        teacher=teacher.label,
    )
    out.line(f"CKA with {teacher.label} over {used:,} {images.split} images of {images.source.name}, matched layers")
    _print(out, compared)
    out.fields([("pictures", "  ".join(map(str, pictures)))])
    return summary | {"files": [str(path) for path in (file, *pictures)]}


def _usable(images: Images, size: int, wanted: int, out: Reporter) -> int:
    """How many of the images make batches; said where they are fewer than wanted."""
    if len(images) < LEAST_BATCH:
        raise CikdError(
            f"CKA needs at least {LEAST_BATCH} images, and {images.source.name} has {len(images)} to test with.",
            hint="--data names a set or a folder with more",
        )
    if len(images) < wanted:
        out.warn(f"there are only {len(images):,} {images.split} images, not {wanted:,}")
    used = usable_images(len(images), size)
    if used < len(images):
        rest = len(images) - used
        out.line(f"{used:,} images are used: the {rest} left over make no batch, which takes {LEAST_BATCH}")
    return used


def _compare(
    student: Subject,
    teacher: Subject,
    images: Images,
    size: int,
    workers: int | None,
    device: torch.device,
    out: Reporter,
) -> dict[str, Any]:
    student.model.to(device)
    shown = watched(images.batches(student.spec.image_size, size, workers), out, total=len(images), text=student.label)
    again = images.batches(teacher.spec.image_size, size, workers)
    pairs = zip(normalised(shown, student.spec, device), normalised(again, teacher.spec, device), strict=True)
    matrix, _ = compare(student.model, teacher.model, pairs)
    return {
        "student": student.label,
        "matrix": matrix.tolist(),
        "diagonal": diagonal(matrix),
        "matched": [column + 1 for column in matched_layers(*matrix.shape)],
    }


def _common_teacher(runs: dict[str, RunDir | None]) -> RunDir:
    """The teacher all students descend from; raises CikdError for a student without one, or with another one."""
    teachers = {}
    for name, run in runs.items():
        found = teacher_of(run) if run else None
        if found is None:
            raise CikdError(f"{name} does not descend from a teacher run.", hint=f"cikd cka {name} --teacher RUN")
        teachers[found.path.resolve()] = found
    if len(teachers) > 1:
        named = ", ".join(str(found.path) for found in teachers.values())
        raise CikdError(
            f"The runs have different teachers ({named}).", hint=f"--teacher {next(iter(teachers.values())).path}"
        )
    return next(iter(teachers.values()))


def _print(out: Reporter, compared: list[dict[str, Any]]) -> None:
    depth = max(len(found["diagonal"]) for found in compared)
    rows = []
    for layer in range(depth):
        name = f"block {layer + 1}" if layer < depth - 1 else "final norm"
        rows.append([name, *(_cell(found["diagonal"], layer, depth) for found in compared)])
    out.table(["layer", *(found["student"] for found in compared)], rows)


def _cell(curve: list[float], layer: int, depth: int) -> str:
    """A shallower student's final norm stands in the last row."""
    if layer == depth - 1:
        return f"{curve[-1]:.3f}"
    return f"{curve[layer]:.3f}" if layer < len(curve) - 1 else ""
