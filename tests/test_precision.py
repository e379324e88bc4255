"""Which arithmetic a run gets."""

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cikd_cli.engine import precision
from cikd_cli.engine.precision import DTYPES, autocast, choose_attention, choose_precision
from cikd_cli.errors import CikdError
from cikd_cli.models import create_student
from cikd_cli.models.frozen import FrozenTeacher

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def student(image_size: int = 16, patch_size: int = 8) -> VisionTransformer:
    sizes = {"width": 12, "depth": 2, "heads": 3}
    return create_student("custom", num_classes=3, image_size=image_size, patch_size=patch_size, end_heads=3, **sizes)


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


class Method(nn.Module):
    """A student that learns from a teacher, both with so many patches."""

    def __init__(self, patches: int) -> None:
        super().__init__()
        side = {"image_size": 8 * math.isqrt(patches), "patch_size": 8}
        self.student = student(**side)
        self.teacher = FrozenTeacher(student(**side), device=CPU, dtype=torch.float32)


def fused_kinds(method: Method) -> tuple[set[bool], set[bool]]:
    """Of the blocks of student and of teacher."""
    networks = (method.student, method.teacher.network)
    return tuple({block.attn.fused_attn for block in vit.blocks} for vit in networks)


@pytest.mark.parametrize(
    ("name", "patches", "amx", "fused"),
    [
        ("fp32", 49, False, (False, False)),
        ("fp32", 64, False, (True, True)),  # with the class token one too many
        ("bf16", 49, True, (False, False)),
        ("bf16", 64, True, (False, True)),
        ("bf16", 64, False, (False, False)),
    ],
)
def test_attention_on_a_cpu_is_fused_where_that_is_faster(name, patches, amx, fused, monkeypatch):
    monkeypatch.setattr(precision, "_cpu_has", lambda flag: amx and flag == "amx_bf16")
    method = Method(patches)
    choose_attention(method, name, CPU)
    assert fused_kinds(method) == ({fused[0]}, {fused[1]})


def test_attention_on_a_gpu_is_fused():
    method = Method(4)
    choose_attention(method, "bf16", CPU)
    choose_attention(method, "bf16", CUDA)
    assert fused_kinds(method) == ({True}, {True})


@pytest.mark.parametrize(("flags", "native"), [("fma avx512_bf16", True), ("fma amx_bf16", True), ("avx512f", False)])
def test_what_the_processor_multiplies_is_read_from_its_flags(flags, native, monkeypatch, tmp_path):
    (info := tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(precision, "_CPU_INFO", info)
    precision._cpu_has.cache_clear()
    try:
        assert choose_precision("auto", CPU) == ("bf16" if native else "fp32")
    finally:
        precision._cpu_has.cache_clear()


def test_a_student_in_bf16_keeps_float32_weights_and_gradients():
    model = student()
    with autocast("bf16", CPU):
        output = model(torch.randn(2, 3, 16, 16))
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
