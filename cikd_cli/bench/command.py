"""`cikd bench`: speed and memory of the training steps on this machine, beside the authors' steps."""

import platform
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cikd_cli.bench import case, sweep
from cikd_cli.bench.config import BenchConfig
from cikd_cli.bench.contest import relation_contest, step_contest, views_contest
from cikd_cli.bench.measure import Contest, measure, memory, pace, speedup, unstarted
from cikd_cli.bench.networks import Case
from cikd_cli.bench.timing import matrix_peak
from cikd_cli.console import reporter
from cikd_cli.engine.precision import choose_precision
from cikd_cli.processes.world import Hardware, choose_hardware
from cikd_cli.settings.recipes import resolve
from cikd_cli.settings.request import Request
from cikd_cli.text import duration, quantity

COLUMNS = ("", "batch", "images/s", "× reference (min to max)", "FLOP/image", "of peak", "memory", "whole run")


def run(request: Request) -> dict[str, Any]:
    """Time what is asked for and print a table; the summary for --json. With --sweep, how the steps grow."""
    options = request.options
    config = resolve(BenchConfig, request.stage, request.flags, options=options).config
    assert isinstance(config, BenchConfig)
    out = reporter(quiet=options.quiet, as_json=options.as_json)
    hardware = choose_hardware(options.gpus)
    device = hardware.device
    plan = case.plan(config, options.recipe, device)
    precision = choose_precision(plan.case.ali.precision, device)
    summary = _describe(plan, hardware, precision, config.rounds)
    out.fields(_header(summary))
    if config.sweep:
        return summary | sweep.run(plan.case, config, device, out)
    results: list[dict[str, Any]] = []
    peak = 0.0
    contests = _contests(config.what.split(","), plan.case, device)
    with out.progress(len(contests), unit="contests") as bar:
        for number, (name, make) in enumerate(contests.items()):
            bar.update(number, name)
            peak = max(peak, matrix_peak(precision, device))  # again and again: the machine may have been busy
            results += measure(make(), rounds=config.rounds, device=device)
    summary["matrix_peak_flops"] = peak
    for result in results:
        if "flops_per_second" in result:
            result["peak_share"] = result["flops_per_second"] / peak
    _project(results, plan)
    out.table(COLUMNS, [[f"{result['what']}, {result['entrant']}", *_cells(result)] for result in results])
    for line in _notes(results):
        out.line(line)
    out.line(f"of peak: of the {quantity(peak)}FLOP/s that large matrix products reach here ({precision})")
    return summary | {"results": results}


def _contests(what: list[str], case: Case, device: torch.device) -> dict[str, Callable[[], Contest]]:
    """Each is made when its turn comes, so that the networks of the one before are gone."""
    makers: dict[str, Callable[[], Contest]] = {
        "ali": partial(step_contest, case, "ali", device),
        "lm": partial(step_contest, case, "lm", device),
        "relation-kl": partial(relation_contest, case, device),
        "views ali": partial(views_contest, case, "ali", device),
        "views lm": partial(views_contest, case, "lm", device),
    }
    return {name: make for name, make in makers.items() if name.split()[0] in what}


def _project(results: list[dict[str, Any]], plan: case.Plan) -> None:
    """Hours of the recipe's steps at the measured pace, data not included; an epoch drops its last, short batch."""
    for result in results:
        if plan.train_images is not None and result["what"] in ("ali", "lm") and "seconds" in result:
            images = plan.images_of_run(result["what"])
            result["hours"] = images / result["images_per_second"] / 3600


def _describe(plan: case.Plan, hardware: Hardware, precision: str, rounds: int) -> dict[str, Any]:
    case = plan.case
    return {
        "hardware": str(hardware) if hardware.gpus else f"{_processor()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "precision": precision,
        "rounds": rounds,
        "recipe": plan.recipe,
        "image_size": case.ali.image_size,
        "teacher": case.teacher.teacher,
        "student": case.ali.student,
        "lob": case.lob,
        "num_classes": case.num_classes,
        "source_size": case.source_size,
        "epochs": {"ali": case.ali.epochs, "lm": case.lm.epochs},
        "train_images": plan.train_images,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def _header(summary: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("machine", f"{summary['hardware']}, torch {summary['torch']}, {summary['precision']}"),
        (
            "networks",
            f"teacher {summary['teacher']}, student {summary['student']}, {summary['image_size']} px, "
            f"LOB {summary['lob']}, {summary['num_classes']} classes",
        ),
    ]
    rows.append(("images", f"random, as are the weights; views are made from {summary['source_size']} px"))
    if summary["train_images"]:
        epochs = summary["epochs"]
        rows.append(
            ("whole run", f"{summary['train_images']:,} images, {epochs['ali']} epochs of ali, {epochs['lm']} of lm")
        )
    return rows


def _cells(result: dict[str, Any]) -> list[str]:
    return [
        str(result["batch_size"]),
        pace(result),
        speedup(result),
        quantity(result["flops_per_image"]) if "flops_per_image" in result else "",
        f"{100 * result['peak_share']:.1f} %" if "peak_share" in result else "",
        memory(result),
        duration(3600 * result["hours"]) if "hours" in result else "",
    ]


def _notes(results: list[dict[str, Any]]) -> list[str]:
    notes = ["reference: the authors' step, re-stated (benchmarks/reference.py); medians of interleaved rounds"]
    if any(result.get("memory_source") == "counted" for result in results):
        notes.append("memory: activations and gradients of forward and backward, counted and not measured (CPU)")
    elif any("memory_source" in result for result in results):
        notes.append("memory: the most that a step allocated beyond weights and moments")
    notes += unstarted(results)
    if any("hours" in result for result in results):
        notes.append("whole run: its steps alone, at this pace; cached: with --teacher-cache, once it knows all views")
    return notes
