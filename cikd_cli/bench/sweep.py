"""`cikd bench --sweep`: pace and memory of the steps over batch, image size and LOB, one at a time around the base."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from cikd_cli.bench.config import STEPS, BenchConfig
from cikd_cli.bench.contest import step_contest
from cikd_cli.bench.growth import Curve, plot_growth
from cikd_cli.bench.measure import measure, memory, pace, speedup, unstarted
from cikd_cli.bench.networks import Case, build_teacher
from cikd_cli.console import Reporter
from cikd_cli.errors import CikdError
from cikd_cli.files import to_json, write_atomically

ROUNDS = 3  # at most: many places, and a line through them shows what is noise
STEM = Path("bench-sweep")
AXES = {"batch_size": "batch size", "image_size": "image size, pixels", "lob": "learning objective block"}

# (on a GPU, on a CPU): on two cores the whole sweep takes minutes, on a GPU it goes as far as the paper's batches
BATCHES = ((8, 32, 64, 128, 256, 512), (1, 2, 4, 8))
SIZES = ((112, 160, 224, 288, 384), (112, 160, 224))
LOBS = ((1, 2, 4, 6, 8, 10, 12), (1, 4, 7, 10, 12))


def run(case: Case, config: BenchConfig, device: torch.device, out: Reporter) -> dict[str, Any]:
    """Measure every place, print tables, write bench-sweep.json, .png and .svg; {"sweep": results by axis}."""
    stages = [stage for stage in STEPS if stage in config.what.split(",")]
    if not stages:
        raise CikdError(f"--sweep times steps, and --what {config.what} has none.", hint="--what ali,lm")
    places = [
        (axis, value, stage)
        for axis, values in _values(config, build_teacher(case), device).items()
        for value, stage in product(values, stages)
        if stage == "ali" or axis != "lob"
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    with out.progress(len(places), unit="places") as bar:
        for number, (axis, value, stage) in enumerate(places):
            bar.update(number, f"{AXES[axis]} {value}, {stage}")
            contest = step_contest(case.but(**{axis: value}), stage, device)
            results = measure(contest, rounds=min(config.rounds, ROUNDS), device=device)
            found.setdefault(axis, []).extend({"value": value} | result for result in results)
    for axis, results in found.items():
        _print(out, axis, results)
    for line in unstarted([result for results in found.values() for result in results]):
        out.line(line)
    summary = {"sweep": found}
    write_atomically(STEM.with_name(f"{STEM.name}.json"), (to_json(summary, indent=2) + "\n").encode())
    panels = [(AXES[axis], _curves(results)) for axis, results in found.items()]
    pictures = plot_growth(STEM, panels, memory="measured" if device.type == "cuda" else "counted")
    out.fields([("pictures", "  ".join(map(str, pictures)))])
    return summary


def _values(config: BenchConfig, teacher: VisionTransformer, device: torch.device) -> dict[str, Sequence[int]]:
    """Places of each axis; the defaults leave out what the networks cannot have."""
    of = 0 if device.type == "cuda" else 1
    patch, depth = teacher.patch_embed.patch_size[0], len(teacher.blocks)
    return {
        "batch_size": config.sweep_batches or BATCHES[of],
        "image_size": config.sweep_sizes or [size for size in SIZES[of] if size % patch == 0],
        "lob": config.sweep_lobs or [block for block in LOBS[of] if block <= depth],
    }


def _print(out: Reporter, axis: str, results: list[dict[str, Any]]) -> None:
    rows = [
        [str(result["value"]), f"{result['what']}, {result['entrant']}", pace(result), speedup(result), memory(result)]
        for result in results
    ]
    out.table([AXES[axis], "", "images/s", "× reference (min to max)", "memory"], rows)


def _curves(results: list[dict[str, Any]]) -> list[Curve]:
    curves = []
    for what, entrant in dict.fromkeys((result["what"], result["entrant"]) for result in results):
        own = [result for result in results if (result["what"], result["entrant"]) == (what, entrant)]
        places = [result["value"] for result in own]
        paces, memories = ([result.get(key) for result in own] for key in ("images_per_second", "memory_bytes"))
        curves.append(Curve(f"{what}, {entrant}", places, paces, memories))
    return curves
