"""How `cikd bench` takes time and memory."""

import math
import os
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bench_case import CPU

from cikd_cli.bench import measure as bench_measure
from cikd_cli.bench import timing
from cikd_cli.bench.measure import Contest, measure
from cikd_cli.bench.timing import interleaved, matrix_peak, ratios


def test_entrants_take_turns_and_every_second_round_goes_backwards():
    calls = []
    acts = {name: (lambda name=name: (calls.append(name), sum(range(3_000_000)))) for name in ("a", "b")}
    seconds = interleaved(acts, rounds=3, device=CPU)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    in_turn = [name for name, before in zip(calls[6:], [None, *calls[6:]], strict=False) if name != before]
    assert in_turn == ["a", "b", "a", "b"]  # a b, b a, a b


def test_a_ratio_is_formed_round_by_round():
    assert ratios([2.0, 3.0, 8.0], [1.0, 3.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 4.0}


def test_what_does_not_fit_into_memory_is_counted_and_not_started(monkeypatch):
    def act():
        raise AssertionError("started")

    work = {
        name: SimpleNamespace(flops=lambda: 7, peak_bytes=lambda n, k=k: k * n)
        for name, k in (("reference", 2), ("tool", 1))
    }
    contest = Contest("ali", 100, {"reference": act, "tool": lambda: None}, work)
    monkeypatch.setattr(bench_measure, "available_bytes", lambda: 279.0)  # of the 200 times 1.4 that it wants
    reference, tool = measure(contest, rounds=1, device=CPU)
    assert reference == {
        "what": "ali",
        "entrant": "reference",
        "batch_size": 100,
        "out_of_memory": True,
        "memory_bytes": 200,
        "memory_source": "counted",
    }
    assert tool["memory_bytes"] == 100
    assert len(tool["seconds"]) == 1
    assert tool["speedup"] is None


@pytest.mark.parametrize(
    ("told", "room"),
    [
        ("MemTotal:  24604 kB\nMemFree:  3 kB\nMemAvailable:      1000 kB\nHugePages_Total:  0\n", 1_024_000),
        ("MemTotal:  24604 kB\n", math.inf),
        (None, math.inf),
    ],
    ids=["linux", "without the line", "elsewhere"],
)
def test_room_is_what_the_system_says_that_programs_can_still_have(told, room, tmp_path, monkeypatch):
    if told is not None:
        (tmp_path / "meminfo").write_text(told)
    monkeypatch.setattr(timing, "_MEMORY", tmp_path / "meminfo")
    assert timing.available_bytes() == room


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_was_freed_is_given_back_before_it_is_counted():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [torch.ones(2**12) for _ in range(2**12)]  # 64 MiB, in pieces that lie in the heap
    last = blocks.pop()  # behind the others, so that they stay when they are freed
    del blocks
    before = resident()
    timing.available_bytes()
    assert before - resident() > 2**25
    assert last.sum() == 2**12


def test_the_peak_of_matrix_products_is_a_pace():
    assert matrix_peak("fp32", CPU) > 1e8
