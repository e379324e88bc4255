"""Linear layers whose weights lie as oneDNN multiplies by them, so that no product has to lay them out again."""

import platform

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

_X86 = ("x86_64", "AMD64")


def packable(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies by packed weights of this type here; only x86 was tried."""
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not onednn or platform.machine() not in _X86:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and _multiplies_bf16())


def pack_block(block: Block) -> None:
    """Pack the linear layers of a frozen block, in place; an exact GELU becomes part of the layer before it."""
    for module in (block.attn, block.mlp):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))
    mlp = block.mlp
    if type(mlp) is Mlp and type(mlp.act) is nn.GELU and mlp.act.approximate == "none":
        mlp.fc1.gelu, mlp.act = True, nn.Identity()


class PackedLinear(nn.Module):
    """A frozen nn.Linear on a CPU, and the GELU behind it where `gelu` is set; its weight can no longer be read."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.gelu = False
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), without gradients."""
        act = "gelu" if self.gelu else "none"
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, act, [], "none")
        return out


def _multiplies_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
