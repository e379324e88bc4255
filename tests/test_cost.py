"""Work and memory of the paper's steps: ViT-B/16 teacher, ViT-Tiny student, 224 px, LOB 10, 100 classes.

Counted on tensors without data, so neither the machine nor its load matters.
"""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from cikd_cli.analysis.count import faked, flops, peak_bytes
from cikd_cli.bench.networks import Case
from cikd_cli.bench.work import Work, relation_work, step_work
from cikd_cli.settings.methods import AliConfig, FinetuneTeacherConfig, LmConfig

GPU = torch.device("cuda")  # whose choice of attention is taken; no GPU is needed
GIB = 2**30
TOKENS = 197


PAPER = Case(
    AliConfig(lob=10, batch_size=256),
    LmConfig(batch_size=256),
    FinetuneTeacherConfig(teacher="vit_base_patch16_224"),
    num_classes=100,
)


@pytest.fixture(scope="module")
def gflops():
    """GFLOP an image of (stage, entrant)."""
    return {
        (stage, name): work.flops() / 1e9
        for stage in ("ali", "lm")
        for name, work in step_work(PAPER, stage, "fp32", GPU).items()
    }


@pytest.mark.parametrize(
    ("stage", "entrant", "most"), [("ali", "tool", 34.8), ("lm", "tool", 39.8), ("lm", "cached", 7.0)]
)
def test_a_step_does_little_more_than_the_least_work(stage, entrant, most, gflops):
    assert gflops[stage, entrant] <= most


@pytest.mark.parametrize(("stage", "expected"), [("ali", 35.33), ("lm", 42.59)])
def test_the_reference_does_the_released_codes_work(stage, expected, gflops):
    # ali: block 1's tap twice, else the least work; lm: both networks whole
    assert gflops[stage, "reference"] == pytest.approx(expected, abs=0.005)


def test_half_precision_and_fused_attention_do_not_change_the_count(gflops):
    work = step_work(PAPER, "ali", "bf16", GPU)["tool"]
    assert work.flops() / 1e9 == pytest.approx(gflops["ali", "tool"])


def peak_at_256(work: Work) -> float:
    """GiB, from two small batches: every tensor but the gradients of the weights grows with the batch."""
    small, large = (work.peak_bytes(images) for images in (16, 32))
    return (small + (256 - 16) * (large - small) / 16) / GIB


@pytest.mark.parametrize(("stage", "most"), [("ali", 5.0), ("lm", 4.5)])
def test_a_batch_of_256_keeps_few_activations(stage, most):
    assert peak_at_256(step_work(PAPER, stage, "bf16", GPU)["tool"]) <= most


def saved_shapes(work: Work) -> list[tuple[int, ...]]:
    """Of every floating-point tensor that is kept for backward."""
    shapes = []

    def note(x: torch.Tensor) -> torch.Tensor:
        if x.is_floating_point():
            shapes.append(tuple(x.shape))
        return x

    with faked(work.networks) as copies, saved_tensors_hooks(note, lambda x: x):
        work.loss(2, *copies)
    return shapes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", ["ali", "lm"])
def test_no_map_of_all_pairs_of_tokens_is_kept_for_backward(stage, precision):
    work = step_work(PAPER, stage, precision, GPU)
    assert [shape for shape in saved_shapes(work["tool"]) if shape[-2:] == (TOKENS, TOKENS)] == []
    assert [shape for shape in saved_shapes(work["reference"]) if shape[-2:] == (TOKENS, TOKENS)] != []


def test_the_relation_loss_keeps_no_map_either():
    work = relation_work(PAPER, "fp32")
    assert [shape for shape in saved_shapes(work["tool"]) if shape[-2:] == (TOKENS, TOKENS)] == []


# ---- the counting itself ----


def matrix_product() -> torch.Tensor:
    a = torch.zeros(4, 8, requires_grad=True)  # 128 bytes, and so has its gradient
    b = torch.zeros(8, 16)  # 512 bytes
    return (a @ b).sum()


def test_a_matrix_product_and_its_gradient_are_counted():
    assert flops([], matrix_product) == 2 * 2 * 4 * 8 * 16


def test_peak_counts_each_storage_once_and_frees_it():
    def loss() -> torch.Tensor:
        x = torch.zeros(1000, requires_grad=True)
        for _ in range(5):
            (x + 1).view(10, 100)  # 4,000 bytes, gone at once
        return (x * 2).sum()

    assert peak_bytes([], loss) == pytest.approx(2 * 4000, abs=100)


def test_networks_are_left_as_they_are():
    network = torch.nn.Linear(3, 2)
    before = network.weight.detach().clone()
    peak_bytes([network], lambda copy: copy(torch.zeros(5, 3)).sum())
    assert network.weight.grad is None
    assert torch.equal(network.weight, before)
