"""Arithmetic of the networks: bf16, fp16 or float32; losses are always float32."""

from functools import cache
from pathlib import Path

import torch
from torch import nn

from cikd_cli.errors import CikdError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


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


def choose_attention(model: nn.Module, precision: str, device: torch.device) -> None:
    """Plain attention for bf16 training on a CPU, where flash attention's backward pass is several times slower."""
    fused = not (device.type == "cpu" and precision == "bf16")
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", fused)  # noqa: B010 - a flag of timm's Attention, unknown to nn.Module


@cache
def _cpu_has_bf16() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and any(flag in info.read_text() for flag in ("avx512_bf16", "amx_bf16"))
