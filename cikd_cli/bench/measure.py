"""A contest of two or more entrants, what is found out about each, and its cells in a table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cikd_cli.bench.timing import Act, available_bytes, interleaved, measured_peak_bytes, ratios
from cikd_cli.bench.work import Work

# Times the counted memory that must be left: ALI of the paper's sizes took 1.4 times at batch 128, 1.3 at 256, as what
# libraries and the allocator need is not counted.
SPARE = 1.4


@dataclass(frozen=True)
class Contest:
    """One thing that is timed: an act each of "reference", "tool" and perhaps "cached".

    images: of one act.  work: what each act computes, to be counted; none for views.
    """

    name: str
    images: int
    entrants: dict[str, Act]
    work: dict[str, Work]


def measure(contest: Contest, *, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """A result of each entrant, the reference first; one for which there is no memory has "out_of_memory" and no times.

    seconds: of one act, by round. speedup: the reference's seconds over its own, round by round: median, min, max.
    memory_bytes: on a GPU the most that an act allocated, else what its forward and backward would hold, counted
    without running them; where that and SPARE say that too little is left, the entrant is not started.
    flops_per_second: of matrix products.
    """
    counted: dict[str, int] = {}
    entrants = contest.entrants
    if device.type != "cuda":  # which says itself when there is too little
        counted = {name: work.peak_bytes(contest.images) for name, work in contest.work.items()}
        room = available_bytes()
        entrants = {name: act for name, act in entrants.items() if SPARE * counted.get(name, 0) <= room}
    timed = interleaved(entrants, rounds=rounds, device=device)
    results: list[dict[str, Any]] = []
    for name, act in contest.entrants.items():
        result: dict[str, Any] = {"what": contest.name, "entrant": name, "batch_size": contest.images}
        if name in timed:
            result |= _timed(contest, timed, name)
        else:
            result["out_of_memory"] = True
        if name in counted:
            result |= {"memory_bytes": counted[name], "memory_source": "counted"}
        elif name in timed and name in contest.work:
            result |= {"memory_bytes": measured_peak_bytes(act, device), "memory_source": "measured"}
        results.append(result)
    return results


def pace(result: dict[str, Any]) -> str:
    """Images a second, as a cell."""
    if "out_of_memory" in result:
        return "no memory"
    value = result["images_per_second"]
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def speedup(result: dict[str, Any]) -> str:
    """How many times the reference's pace, as a cell: median and range of the rounds."""
    ratio = result.get("speedup")
    if ratio is None or result["entrant"] == "reference":
        return ""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


def memory(result: dict[str, Any]) -> str:
    """Mebibytes, as a cell."""
    if "memory_bytes" not in result:
        return ""
    size = result["memory_bytes"] / 2**20
    return f"{size:,.0f} MiB" if size >= 10 else f"{size:.1f} MiB"


def unstarted(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line about entrants that were counted and not started, if there are any."""
    if any("out_of_memory" in result and "memory_bytes" in result for result in results):
        return [f"no memory: not started, as {SPARE} times what it holds is more than this machine has left"]
    return []


def _timed(contest: Contest, timed: dict[str, list[float]], name: str) -> dict[str, Any]:
    median = statistics.median(timed[name])
    pace = {
        "seconds": timed[name],
        "median_seconds": median,
        "images_per_second": contest.images / median,
        "speedup": ratios(timed["reference"], timed[name]) if "reference" in timed else None,
    }
    if name in contest.work:
        flops = contest.work[name].flops()
        pace |= {"flops_per_image": flops, "flops_per_second": flops * contest.images / median}
    return pace
