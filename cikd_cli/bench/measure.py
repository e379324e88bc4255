"""A contest of two or more entrants, and what is found out about each."""

import statistics
from dataclasses import dataclass
from typing import Any

import torch

from cikd_cli.bench.timing import Act, interleaved, measured_peak_bytes, ratios
from cikd_cli.bench.work import Work


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
    """A result of each entrant, the reference first; one for which a GPU has no memory has "out_of_memory" alone.

    seconds: of one act, by round. speedup: the reference's seconds over its own, round by round: median, min, max.
    memory_bytes: on a GPU the most that an act allocated, else what its forward and backward would hold, counted
    without running them. flops_per_second: of matrix products.
    """
    timed = interleaved(contest.entrants, rounds=rounds, device=device)
    return [
        {"what": contest.name, "entrant": name, "batch_size": contest.images}
        | (_pace(contest, timed, name) | _cost(contest, timed[name], name, device))
        if name in timed
        else {"what": contest.name, "entrant": name, "batch_size": contest.images, "out_of_memory": True}
        for name in contest.entrants
    ]


def _pace(contest: Contest, timed: dict[str, list[float]], name: str) -> dict[str, Any]:
    median = statistics.median(timed[name])
    return {
        "seconds": timed[name],
        "median_seconds": median,
        "images_per_second": contest.images / median,
        "speedup": ratios(timed["reference"], timed[name]) if "reference" in timed else None,
    }


def _cost(contest: Contest, seconds: list[float], name: str, device: torch.device) -> dict[str, Any]:
    if name not in contest.work:
        return {}
    flops = contest.work[name].flops()
    cost = {"flops_per_image": flops, "flops_per_second": flops * contest.images / statistics.median(seconds)}
    if device.type == "cuda":
        used = measured_peak_bytes(contest.entrants[name], device)
        return cost | {"memory_bytes": used, "memory_source": "measured"}
    return cost | {"memory_bytes": contest.work[name].peak_bytes(contest.images), "memory_source": "counted"}
