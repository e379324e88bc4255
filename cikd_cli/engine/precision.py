"""Arithmetic of the networks: bf16, fp16 or float32; losses are always float32."""

from functools import cache
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cikd_cli.errors import CikdError
from cikd_cli.models.blocks import fuse_attention
from cikd_cli.models.frozen import teacher_of

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_CPU_INFO = Path("/proc/cpuinfo")
_FEW_TOKENS = 64  # up to here plain attention in fp32 is as fast on a CPU, or faster (docs/benchmarks.md)


def choose_precision(wanted: str, device: torch.device) -> str:
    """ "auto" is bf16 where the device multiplies it natively, else fp16 on a GPU and float32 on a CPU."""
    if wanted != "auto":
        if wanted == "fp16" and device.type == "cpu":
            raise CikdError("fp16 trains on GPUs only.", hint="--precision bf16")
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _cpu_has_bf16() else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Mixed precision for the networks under training."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def choose_attention(method: nn.Module, precision: str, device: torch.device) -> None:
    """The faster kind of attention for the networks that a method trains and for its frozen teacher.

    Fused on a GPU. On a CPU plain in bf16 and for few tokens; only a teacher of many tokens is fused in bf16 too, where
    the processor has AMX (docs/benchmarks.md).
    """
    networks = [(module, True) for module in method.modules() if isinstance(module, VisionTransformer)]
    teacher = teacher_of(method)
    if teacher and isinstance(teacher.network, VisionTransformer):
        networks.append((teacher.network, False))
    for vit, trained in networks:
        many = vit.patch_embed.num_patches + vit.num_prefix_tokens > _FEW_TOKENS
        slow = precision == "bf16" and (trained or not _cpu_has("amx_bf16"))
        fuse_attention(vit, device.type != "cpu" or (many and not slow))


def _cpu_has_bf16() -> bool:
    return _cpu_has("avx512_bf16") or _cpu_has("amx_bf16")


@cache
def _cpu_has(flag: str) -> bool:
    return _CPU_INFO.exists() and flag in _CPU_INFO.read_text().split()
