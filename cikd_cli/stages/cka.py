"""`cikd cka RUN...`: how alike every layer of a student is to every layer of its teacher."""

from typing import Any

from cikd_cli.analysis.cka import LEAST_BATCH, compare, diagonal, matched_layers, usable_images
from cikd_cli.errors import CikdError
from cikd_cli.reports.plots import Similarity, plot_cka
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.analyses import CkaConfig
from cikd_cli.settings.request import Request
from cikd_cli.stages.analysis import Analysis, Images, begin
from cikd_cli.stages.results import image_words, network_words, result_stem, save_result
from cikd_cli.stages.subjects import Subject, check_vit, find_run, open_run, open_subject, teacher_of


def run(request: Request) -> dict[str, Any]:
    """Compare, write cka.json, cka.png and cka.svg, print the matched-layer curve; the summary for --json.

    The files go into the first run named; with timm names alone, into the working directory (see `stages/results`).
    """
    analysis = begin(request, CkaConfig)
    config, out = analysis.config, analysis.out
    runs = {name: find_run(name) for name in request.runs}
    home = next(filter(None, runs.values()), None)
    teacher = open_subject(config.teacher) if config.teacher else open_run(_common_teacher(runs))
    images = analysis.open_images(home or teacher.run, most=config.images)
    used = _usable(images)
    students = [open_subject(name) for name in request.runs]
    for subject in (teacher, *students):
        check_vit(subject)
    compared = [_compare(student, teacher, images, analysis) for student in students]
    summary = {
        **compared[0],
        "teacher": teacher.label,
        "images": used,
        "batch_size": images.batch_size,
        "data": images.source.name,
        "split": images.split,
        "runs": compared,
    }
    stem = result_stem("cka", home, [*network_words(students, home, teacher=teacher), *image_words(images)])
    file = save_result(stem, summary, out, how=["images", "batch_size", "split"])
    drawn = [Similarity(found["student"], found["matrix"], found["diagonal"]) for found in compared]
    pictures = plot_cka(stem, drawn, teacher=teacher.label)
    out.line(f"CKA with {teacher.label} over {used:,} {images.split} images of {images.source.name}, matched layers")
    out.table(["layer", *(found["student"] for found in compared)], _rows(compared))
    return analysis.finish(summary, file, *pictures)


def _usable(images: Images) -> int:
    """How many of the images make batches; said where some do not."""
    if len(images) < LEAST_BATCH:
        raise CikdError(
            f"CKA needs at least {LEAST_BATCH} images, and {images.source.name} has {len(images)} to test with.",
            hint="--data names a set or a folder with more",
        )
    used = usable_images(len(images), images.batch_size)
    if used < len(images):
        rest = len(images) - used
        images.out.line(f"{used:,} images are used: the {rest} left over make no batch, which takes {LEAST_BATCH}")
    return used


def _compare(student: Subject, teacher: Subject, images: Images, analysis: Analysis[CkaConfig]) -> dict[str, Any]:
    device = analysis.device
    looks = images.inputs(student, device), images.inputs(teacher, device, shown=False)
    matrix, _ = compare(student.model.to(device), teacher.model.to(device), zip(*looks, strict=True))
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


def _rows(compared: list[dict[str, Any]]) -> list[list[str]]:
    """A row a layer, the final norm last."""
    depth = max(len(found["diagonal"]) for found in compared)
    names = [*(f"block {layer}" for layer in range(1, depth)), "final norm"]
    return [[name, *(_cell(found["diagonal"], layer, depth) for found in compared)] for layer, name in enumerate(names)]


def _cell(curve: list[float], layer: int, depth: int) -> str:
    """A shallower student's final norm stands in the last row."""
    if layer == depth - 1:
        return f"{curve[-1]:.3f}"
    return f"{curve[layer]:.3f}" if layer < len(curve) - 1 else ""
