"""The frozen teacher: always in eval mode, without gradient, in half precision where the run is, in no checkpoint."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cikd_cli.models.network import read
from cikd_cli.models.packed import pack_block, packable
from cikd_cli.models.readout import class_logits
from cikd_cli.models.taps import QKV, drop_extra_prefix, tap_qkv


class FrozenTeacher:
    """Not an nn.Module on purpose: a method that holds one neither trains, moves, wraps nor saves it."""

    def __init__(self, network: nn.Module, *, device: torch.device, dtype: torch.dtype) -> None:
        self.network: Any = network.eval().requires_grad_(False).to(device=device, dtype=dtype)
        self.dtype = dtype

    def pack(self) -> None:
        """On a CPU, lay the weights out as its products want them (docs/benchmarks.md).

        Not those of the last block: LM takes parts of its qkv weights, for the class token.
        """
        plain = isinstance(self.network, VisionTransformer)
        if plain and next(self.network.parameters()).device.type == "cpu" and packable(self.dtype):
            for block in self.network.blocks[:-1]:
                pack_block(block)

    @torch.no_grad()
    def taps(self, images: Tensor, blocks: Sequence[int]) -> dict[int, QKV]:
        """q, k, v of `blocks` with one prefix token, (B, heads, 1 + patches, head_dim); images: (B, 3, H, W)."""
        self._assert_frozen()
        with torch.autocast(images.device.type, enabled=False):
            taps = tap_qkv(self.network, images.to(self.dtype), blocks)
        return {block: drop_extra_prefix(qkv, self.network.num_prefix_tokens) for block, qkv in taps.items()}

    @torch.no_grad()
    def read(self, images: Tensor, points: Sequence[str]) -> dict[str, QKV | Tensor]:
        """As `network.read`, in the teacher's arithmetic."""
        self._assert_frozen()
        with torch.autocast(images.device.type, enabled=False):
            return read(self.network, images.to(self.dtype), points)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Class logits in float32, (B, C)."""
        self._assert_frozen()
        with torch.autocast(images.device.type, enabled=False):
            logits = class_logits(self.network, images.to(self.dtype))
        return logits.float()

    def _assert_frozen(self) -> None:
        if self.network.training:
            raise AssertionError("the teacher has left eval mode")


def teacher_of(method: object) -> FrozenTeacher | None:
    """The frozen teacher that a method holds, if any."""
    teacher = getattr(method, "teacher", None)
    return teacher if isinstance(teacher, FrozenTeacher) else None
