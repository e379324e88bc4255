"""Seconds, interleaved so that both sides meet the same machine; the matrix-product peak; memory used and left."""

import ctypes
import gc
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from cikd_cli.engine.precision import DTYPES

Act = Callable[[], object]

WARM_UP = 2  # calls: kernels are chosen, moments and caches made
SHORTEST = 0.05  # seconds of one measurement; quicker calls are repeated
REPEATS_OF_PEAK = 3
_MEMORY = Path("/proc/meminfo")


def interleaved(entrants: Mapping[str, Act], *, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds a call, of each entrant in each round; every second round goes backwards.

    An entrant for which a GPU has no memory is left out.
    """
    repeats: dict[str, int] = {}
    for name, act in entrants.items():
        try:
            repeats[name] = _repeats(act, device)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    seconds: dict[str, list[float]] = {name: [] for name in repeats}
    for number in range(rounds):
        names = list(repeats) if number % 2 == 0 else list(reversed(repeats))
        for name in names:
            seconds[name].append(_timed(entrants[name], repeats[name], device))
    return seconds


def ratios(slow: list[float], fast: list[float]) -> dict[str, Any]:
    """How many times faster, round by round: {"median", "min", "max"}."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def matrix_peak(precision: str, device: torch.device) -> float:
    """Floating-point operations a second of the best of a few large square matrix products."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device).to(DTYPES[precision])
    product = torch.empty_like(a)

    def act() -> object:
        return torch.mm(a, a, out=product)

    act()
    return float(2 * size**3 / min(_timed(act, 1, device) for _ in range(REPEATS_OF_PEAK)))


def measured_peak_bytes(act: Act, device: torch.device) -> int:
    """The most memory that one call allocates on a GPU beyond what lay there before."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    act()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def available_bytes() -> float:
    """Memory of the machine that programs can still have; without limit where the system does not say, as Linux does.

    What this process has freed is given back first. What a container or a job of a cluster may have is not looked at.
    """
    _give_back()
    text = _MEMORY.read_text() if _MEMORY.exists() else ""
    kibibytes = re.search(r"^MemAvailable: *(\d+) kB", text, re.MULTILINE)
    return 1024.0 * int(kibibytes[1]) if kibibytes else math.inf


def _give_back() -> None:
    """Hand what this process has freed back to the system, where the C library can: it keeps gigabytes otherwise."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc's
        trim(0)


def _repeats(act: Act, device: torch.device) -> int:
    _timed(act, WARM_UP, device)
    return max(1, math.ceil(SHORTEST / max(_timed(act, 1, device), 1e-6)))


def _timed(act: Act, repeats: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        act()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
