"""The fused relation KL in Triton's interpreter, in one process of its own, against the definition in float64."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import reference
import torch
from torch import Tensor

import cikd_cli

PACKAGE = Path(cikd_cli.__file__).parent
Pair = tuple[Tensor, Tensor]

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def pair(images: int, heads: int, count: int, width: int, *, seed: int, dtype: torch.dtype = torch.float32) -> Pair:
    a, b = (reference.seeded(images, heads, count, width, seed=seed + i).to(dtype) for i in (0, 100))
    return a, b


def from_one_projection(images: int, heads: int, count: int, width: int, *, seed: int) -> Pair:
    """q and k as a block has them: views of one (B, tokens, 3, heads, head_dim)."""
    q, k, _ = reference.seeded(images, count, 3, heads, width, seed=seed).permute(2, 0, 3, 1, 4).unbind()
    return q, k


def with_scores(scores: Tensor) -> Pair:
    """(a, b) whose logits a b' / sqrt(d) are `scores` (N, N): b is sqrt(d) x the identity."""
    return scores[None, None], math.sqrt(len(scores)) * torch.eye(len(scores))[None, None]


def large_scores() -> tuple[Pair, Pair]:
    generator = torch.Generator().manual_seed(3)
    teacher, student = (600 * (2 * torch.rand(70, 70, generator=generator) - 1) for _ in range(2))
    teacher[0], student[0] = 600, -600  # a row that is flat although it is large
    teacher[1, 0], teacher[1, 69], student[1, 0], student[1, 69] = 600, -600, -600, 600
    student[2] = -600  # its lse is far below the logits 0 of the keys that are not there
    return with_scores(teacher), with_scores(student)


def all_cases() -> dict[str, tuple[Pair, Pair]]:
    vv_t, vv_s = reference.seeded(1, 2, 21, 12, seed=1), reference.seeded(1, 2, 21, 20, seed=2)
    views = from_one_projection(2, 2, 17, 16, seed=1), from_one_projection(2, 2, 17, 8, seed=2)
    same = pair(1, 2, 70, 24, seed=1)
    across = tuple(x.transpose(-2, -1).contiguous().transpose(-2, -1) for x in pair(1, 2, 17, 8, seed=2))
    sizes = {
        "17 tokens": (2, 2, 17, 16, 64),
        "70 tokens": (1, 2, 70, 64, 16),
        "odd heads": (2, 1, 33, 5, 3),
        "one channel": (1, 3, 20, 1, 1),
        "one token": (2, 2, 1, 4, 4),
        "wide heads": (1, 1, 40, 128, 100),
    }
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return {
        **{name: (pair(b, k, n, t, seed=1), pair(b, k, n, s, seed=2)) for name, (b, k, n, t, s) in sizes.items()},
        **{
            name: (pair(1, 2, 70, 64, seed=1, dtype=dtype), pair(1, 2, 70, 16, seed=2, dtype=dtype))
            for name, dtype in halves.items()
        },
        "fp32 teacher": (pair(1, 1, 17, 8, seed=1), pair(1, 1, 17, 8, seed=2, dtype=torch.bfloat16)),
        "values": ((vv_t, vv_t), (vv_s, vv_s)),
        "views": views,
        "copies": tuple((a.contiguous(), b.contiguous()) for a, b in views),
        "channels across": (pair(1, 2, 17, 16, seed=1), (across[0], across[1])),
        "unlike strides": (pair(1, 2, 17, 16, seed=1), (across[0], across[1].contiguous())),
        "same maps": (same, same),
        "large scores": large_scores(),
    }


def definition(teacher: Pair, student: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients of eq. 4 in float64, from whole maps."""
    log_t, log_s = reference.relation_log_map(*teacher), reference.relation_log_map(*student)
    images, heads, count, width = student[0].shape
    loss = (log_t.exp() * (log_t - log_s)).sum() / (images * heads * count)
    g = (log_s.exp() - log_t.exp()) / (images * heads * count * math.sqrt(width))
    return loss, g @ student[1].double(), g.transpose(-2, -1) @ student[0].double()


def run(*words: str | Path, folder: Path, **settings: str) -> str:
    """What tests/triton_process.py prints; Triton writes into `folder` only."""
    paths = {"PYTHONPATH": str(PACKAGE.parent), "TRITON_HOME": str(folder), "TRITON_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, Path(__file__).with_name("triton_process.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **paths, **settings})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cases() -> dict[str, tuple[Pair, Pair]]:
    return all_cases()


@pytest.fixture(scope="module")
def results(cases, tmp_path_factory) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    folder = tmp_path_factory.mktemp("triton")
    torch.save(cases, folder / "inputs.pt")
    run("interpret", folder / "inputs.pt", folder / "outputs.pt", folder=folder, TRITON_INTERPRET="1")
    return torch.load(folder / "outputs.pt")


@pytest.fixture
def without_triton(monkeypatch) -> ModuleType:
    """The module as it is where Triton cannot be imported."""
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location("without_triton", PACKAGE / "kernels" / "relation_kl_cuda.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def errors(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> tuple[float, float]:
    """(of the loss, of the worse gradient), each relative to its largest value."""
    worst = [
        ((x.double() - y).abs().max() / y.abs().max().clamp_min(1e-9)).item()
        for x, y in zip(got, expected, strict=True)
    ]
    return worst[0], max(worst[1:])


EXACT = ["17 tokens", "70 tokens", "odd heads", "one channel", "one token", "wide heads", "values", "views"]


@needs_triton
@pytest.mark.parametrize("name", [*EXACT, "channels across", "unlike strides"])
def test_float32_is_the_definition_to_float32(cases, results, name):
    of_loss, of_gradients = errors(results[name], definition(*cases[name]))
    assert of_loss < 1e-6
    assert of_gradients < 1e-5


@needs_triton
@pytest.mark.parametrize(("name", "bound"), [("bf16", 1e-2), ("fp32 teacher", 1e-2), ("fp16", 1e-3)])
def test_half_precision_rounds_the_gradients_and_not_the_loss(cases, results, name, bound):
    of_loss, of_gradients = errors(results[name], definition(*cases[name]))
    assert of_loss < 1e-6
    assert of_gradients < bound


@needs_triton
def test_the_results_are_a_float32_scalar_and_gradients_like_the_student(cases, results):
    for name, (loss, *gradients) in results.items():
        assert (loss.dtype, loss.shape) == (torch.float32, ()), name
        for gradient, x in zip(gradients, cases[name][1], strict=True):
            assert gradient.shape == x.shape, name
            assert gradient.dtype == (torch.float32 if name == "fp16" else x.dtype), name


@needs_triton
def test_views_of_a_projection_give_the_bits_of_their_copies(results):
    assert all(torch.equal(x, y) for x, y in zip(results["views"], results["copies"], strict=True))


@needs_triton
def test_equal_maps_have_loss_and_gradients_zero(results):
    assert [x.abs().max().item() for x in results["same maps"]] == [0, 0, 0]


@needs_triton
def test_large_scores_give_the_definitions_value_and_gradients(cases, results):
    of_loss, of_gradients = errors(results["large scores"], definition(*cases["large scores"]))
    assert of_loss < 1e-6
    assert of_gradients < 2e-4  # float32 spaces logits of 600 by 6e-5


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="Triton brings CUDA's compiler on Linux only")
def test_the_kernels_compile_for_an_h100_and_spill_nothing(tmp_path):
    stacks = json.loads(run("compile", folder=tmp_path, TRITON_INTERPRET="0"))
    assert stacks == {"_queries_kernel": 0, "_keys_kernel": 0}


def test_without_triton_the_file_imports_and_says_that_it_cannot_run(without_triton):
    assert not without_triton.available()


WRONG = {
    "keys of another count": (pair(1, 2, 5, 8, seed=1), (torch.ones(1, 2, 5, 8), torch.ones(1, 2, 6, 8))),
    "other heads": (pair(1, 2, 5, 8, seed=1), pair(1, 3, 5, 8, seed=1)),
    "heads that are too wide": (pair(1, 2, 5, 129, seed=1), pair(1, 2, 5, 8, seed=1)),
    "float64": (pair(1, 2, 5, 8, seed=1), pair(1, 2, 5, 8, seed=1, dtype=torch.float64)),
    "two dtypes": (pair(1, 2, 5, 8, seed=1), (torch.ones(1, 2, 5, 8), torch.ones(1, 2, 5, 8).half())),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_kernels_would_read_wrongly_is_refused(without_triton, name):
    with pytest.raises(ValueError, match="cannot"):
        without_triton.fused_relation_kl(*WRONG[name])
