"""Queries, keys and values of chosen blocks of a stock timm ViT (docs/method.md)."""

from collections.abc import Sequence
from typing import NamedTuple

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cikd_cli.errors import CikdError
from cikd_cli.models.blocks import embed, finish, project


class QKV(NamedTuple):
    """Query, key and value of one block, each (B, heads, tokens, head_dim)."""

    q: Tensor
    k: Tensor
    v: Tensor


def tap_qkv(vit: VisionTransformer, images: Tensor, blocks: Sequence[int]) -> dict[int, QKV]:
    """q, k, v of `blocks`, counted from 1, after q/k norm where the model has one; images: (B, 3, H, W).

    Runs no further than the last block asked for, and of that block only LayerNorm 1 and the qkv projection.
    Raises CikdError for a block outside 1..depth.
    """
    depth = len(vit.blocks)
    for block in blocks:
        if not 1 <= block <= depth:
            raise CikdError(f"Block {block} is outside 1..{depth}.", hint=f"--lob {min(max(block, 1), depth)}")
    x = embed(vit, images)
    taps: dict[int, QKV] = {}
    for number, block in enumerate(vit.blocks, start=1):
        if number not in blocks:
            x = block(x)
            continue
        taps[number] = qkv = QKV(*project(block.attn, block.norm1(x)))
        if number == max(blocks):
            break
        x = finish(block, x, *qkv)
    return taps


def drop_extra_prefix(qkv: QKV, prefix_tokens: int) -> QKV:
    """Keep the class token and the patches, without register or distillation tokens."""
    if prefix_tokens == 1:
        return qkv
    keep = [0, *range(prefix_tokens, qkv.q.shape[2])]
    return QKV(*(part[:, :, keep] for part in qkv))
