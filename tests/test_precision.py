"""Which arithmetic a run gets."""

import pytest
import torch
from torch import nn

from cikd_cli.engine import precision
from cikd_cli.engine.precision import DTYPES, autocast, choose_attention, choose_precision
from cikd_cli.errors import CikdError
from cikd_cli.models import create_student

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def student() -> nn.Module:
    sizes = {"width": 12, "depth": 2, "heads": 3}
    return create_student("custom", num_classes=3, image_size=16, patch_size=8, end_heads=3, **sizes)


def matrix_product(name: str) -> torch.dtype:
    with autocast(name, CPU):
        return nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype


@pytest.mark.parametrize("wanted", ["bf16", "fp32"])
def test_what_is_asked_for_is_taken_on_a_cpu(wanted):
    assert choose_precision(wanted, CPU) == wanted


@pytest.mark.parametrize("wanted", ["bf16", "fp16", "fp32"])
def test_what_is_asked_for_is_taken_on_a_gpu(wanted):
    assert choose_precision(wanted, CUDA) == wanted


def test_fp16_on_a_cpu_is_refused_with_what_works():
    with pytest.raises(CikdError, match="GPUs only") as caught:
        choose_precision("fp16", CPU)
    assert caught.value.hint == "--precision bf16"


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_cpu_is_bf16_only_where_it_is_native(native, chosen, monkeypatch):
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: native)
    assert choose_precision("auto", CPU) == chosen


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_a_gpu_is_bf16_where_it_is_native_else_fp16(native, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert choose_precision("auto", CUDA) == chosen


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_products_have_the_chosen_type(name, dtype):
    assert matrix_product(name) == DTYPES[name] == dtype


@pytest.mark.parametrize(("name", "fused"), [("bf16", False), ("fp32", True)])
def test_attention_on_a_cpu_is_fused_except_in_bf16(name, fused):
    model = nn.ModuleDict({"student": student()})
    choose_attention(model, name, CPU)
    assert [block.attn.fused_attn for block in model["student"].blocks] == [fused, fused]


def test_attention_on_a_gpu_is_fused():
    model = student()
    choose_attention(model, "bf16", CPU)
    choose_attention(model, "bf16", CUDA)
    assert [block.attn.fused_attn for block in model.blocks] == [True, True]


def test_a_student_in_bf16_keeps_float32_weights_and_gradients():
    model = student()
    with autocast("bf16", CPU):
        output = model(torch.randn(2, 3, 16, 16))
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
