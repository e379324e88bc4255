"""What a network costs: parameters, multiply-adds of one image, and the time one image takes."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

WARM_UP = 5  # the first passes choose kernels and fill caches
MOST_SECONDS = 3.0  # of measuring, on a slow or busy machine


def parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """How many parameters there are; trainable: without a student's fixed position table (docs/method.md)."""
    return sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad or not trainable)


@torch.inference_mode()
def macs(model: nn.Module, image_size: int) -> int:
    """Multiply-adds of one image (3, image_size, image_size): 17.6 G for ViT-B/16 at 224, attention products included.

    Counted by running the model once, in evaluation mode, on the device it is on. Norms, softmax and activations are
    not counted, as everywhere in the literature.
    """
    model.eval()
    image = _image(model, image_size)
    with _plain_attention(model), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops()) // 2


@torch.inference_mode()
def latency(model: nn.Module, image_size: int, device: torch.device | str = "cpu", *, repeats: int = 30) -> float:
    """Median milliseconds of one image in a batch of its own, in evaluation mode; the model is moved to `device`.

    repeats: how many passes, unless they take longer than about three seconds.
    """
    model.eval().to(device)
    image = _image(model, image_size)
    on_gpu = image.device.type == "cuda"
    times: list[float] = []
    while len(times) < WARM_UP + repeats and (len(times) < 2 * WARM_UP or sum(times) < MOST_SECONDS):
        start = time.perf_counter()
        model(image)
        if on_gpu:
            torch.cuda.synchronize(image.device)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[WARM_UP:])


def _image(model: nn.Module, image_size: int) -> torch.Tensor:
    parameter = next(model.parameters())
    return torch.zeros(1, 3, image_size, image_size, dtype=parameter.dtype, device=parameter.device)


@contextmanager
def _plain_attention(model: nn.Module) -> Iterator[None]:
    """Attention as two matrix products: the counter does not know every fused kernel."""
    fused: list[Any] = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True
