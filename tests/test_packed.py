"""The frozen teacher with packed weights against itself."""

import platform
from types import SimpleNamespace

import pytest
import reference
import torch
from bench_case import case
from test_taps import VARIANTS, network
from timm.layers import GluMlp, Mlp
from torch import nn

from cikd_cli.bench.contest import step_contest
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.packed import PackedLinear, packable
from cikd_cli.training import prepare

CPU = torch.device("cpu")
here = pytest.mark.skipif(not packable(torch.float32), reason="no oneDNN for x86 here")
half_too = [
    pytest.param(torch.float32, marks=here),
    pytest.param(torch.bfloat16, marks=pytest.mark.skipif(not packable(torch.bfloat16), reason="no bf16 here")),
]


def teacher(dtype, **settings):
    return FrozenTeacher(network(**settings), device=CPU, dtype=dtype)


def everything(frozen):
    """Taps of all blocks, and logits, as one row of numbers."""
    images = reference.seeded(3, 3, 16, 16)
    taps = frozen.taps(images, range(1, len(frozen.network.blocks) + 1))
    parts = [part for _, qkv in sorted(taps.items()) for part in qkv]
    return torch.cat([part.double().flatten() for part in (*parts, frozen.logits(images))])


@pytest.mark.parametrize("dtype", half_too)
@pytest.mark.parametrize("name", VARIANTS)
def test_packed_weights_are_as_exact_as_plain_ones(name, dtype):
    exact = everything(teacher(torch.float64, **VARIANTS[name]))
    plain = everything(teacher(dtype, **VARIANTS[name]))
    frozen = teacher(dtype, **VARIANTS[name])
    frozen.pack()
    error, own = (float((x - exact).norm() / exact.norm()) for x in (plain, everything(frozen)))
    assert own <= (1.1 * error if dtype == torch.bfloat16 else 1e-6)


def linear_layers(frozen):
    """Of each block."""
    return [[m for m in block.modules() if isinstance(m, PackedLinear | nn.Linear)] for block in frozen.network.blocks]


@here
def test_all_blocks_but_the_last_are_packed_and_once_only():
    frozen = teacher(torch.float32)
    frozen.pack()
    once = linear_layers(frozen)
    frozen.pack()
    assert linear_layers(frozen) == once
    assert [[type(layer) for layer in block] for block in once] == [[PackedLinear] * 4] * 3 + [[nn.Linear] * 4]


class TwiceLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def doubled(*sizes, **settings):
    """timm's Mlp with another kind of first layer, as adapters have."""
    mlp = Mlp(*sizes, **settings)
    mlp.fc1 = TwiceLinear(mlp.fc1.in_features, mlp.fc1.out_features)
    return mlp


@here
@pytest.mark.parametrize(
    ("settings", "act"),
    [
        ({}, nn.Identity),
        ({"act_layer": lambda: nn.GELU("tanh")}, nn.GELU),
        ({"act_layer": nn.ReLU}, nn.ReLU),
        ({"mlp_layer": GluMlp, "act_layer": nn.GELU}, nn.GELU),  # of half the layer's outputs only
        ({"mlp_layer": doubled}, nn.GELU),
    ],
)
def test_an_exact_gelu_of_all_outputs_is_part_of_a_packed_layer(settings, act):
    frozen = teacher(torch.float32, **settings)
    plain = everything(frozen)
    frozen.pack()
    assert [type(block.mlp.act) for block in frozen.network.blocks] == [act] * 3 + [nn.GELU if settings == {} else act]
    torch.testing.assert_close(everything(frozen), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("machine", "onednn", "bf16", "answers"),
    [
        ("x86_64", True, True, (True, True)),
        ("AMD64", True, False, (True, False)),
        ("aarch64", True, True, (False, False)),
        ("x86_64", False, True, (False, False)),
    ],
)
def test_weights_are_packed_where_onednn_can_use_them(machine, onednn, bf16, answers, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    names = {"_linear_pointwise": None, "_reorder_linear_weight": None, "_is_mkldnn_bf16_supported": lambda: bf16}
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**names))
    assert (packable(torch.float32), packable(torch.bfloat16)) == answers
    assert not packable(torch.float16)
    assert not packable(torch.float64)


@here
def test_nothing_is_packed_where_pytorch_has_no_such_operation(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not packable(torch.float32)


@pytest.mark.parametrize("stage", ["ali", "lm"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_training_packs_its_teacher_unless_that_is_compiled(stage, compiled, monkeypatch):
    called = []
    monkeypatch.setattr(prepare, "compile_blocks", lambda *_: None)  # no compiler is needed to see it
    monkeypatch.setattr(FrozenTeacher, "pack", lambda self: called.append(self))
    step_contest(case(precision="fp32", batch_size=4, compile=compiled), stage, CPU)
    assert bool(called) != compiled
