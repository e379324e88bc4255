"""Linear layers whose weights lie as oneDNN multiplies by them, so that no product has to lay them out again."""

import platform

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

_X86 = ("x86_64", "AMD64")


def packable(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies by packed weights of this type here; tried on x86 only, timed on AMD only.

    The operations are private ones of PyTorch, those that its compiler calls; where they are missing nothing is packed.
    """
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    known = all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))
    if not (onednn and known and platform.machine() in _X86):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_block(block: Block) -> None:
    """Pack the linear layers of a frozen block, in place; an exact GELU becomes part of the layer before it."""
    mlp = block.mlp
    if type(mlp) is Mlp and type(mlp.fc1) is nn.Linear and type(mlp.act) is nn.GELU and mlp.act.approximate == "none":
        mlp.fc1, mlp.act = PackedLinear(mlp.fc1, gelu=True), nn.Identity()
    for module in (block.attn, mlp):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))


class PackedLinear(nn.Module):
    """A frozen nn.Linear on a CPU, with an exact GELU behind it if wanted; its weight can no longer be read."""

    def __init__(self, linear: nn.Linear, *, gelu: bool = False) -> None:
        super().__init__()
        self.act = "gelu" if gelu else "none"
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), without gradients."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self.act, [], "none")
        return out
