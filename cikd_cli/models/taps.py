"""Queries, keys and values of chosen blocks of a stock timm ViT (spec 1.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from cikd_cli.errors import CikdError


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
        taps[number] = qkv = _project(block.attn, block.norm1(x))
        if number == max(blocks):
            break
        x = _rest_of_block(block, x, qkv)
    return taps


def embed(vit: VisionTransformer, images: Tensor) -> Tensor:
    """What enters the first block: patch tokens behind the prefix tokens, with positions, (B, tokens, width)."""
    x: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
    return x


def drop_extra_prefix(qkv: QKV, prefix_tokens: int) -> QKV:
    """Keep the class token and the patches, without register or distillation tokens."""
    if prefix_tokens == 1:
        return qkv
    keep = [0, *range(prefix_tokens, qkv.q.shape[2])]
    return QKV(*(part[:, :, keep] for part in qkv))


def _project(attn: Attention, x: Tensor) -> QKV:
    batch, tokens, _ = x.shape
    qkv = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    return QKV(attn.q_norm(q), attn.k_norm(k), v)


def _rest_of_block(block: Block, x: Tensor, qkv: QKV) -> Tensor:
    """The block's output from its own q, k and v, so that the projection is computed once."""
    attn = block.attn
    if attn.fused_attn:
        mixed = F.scaled_dot_product_attention(*qkv)
    else:
        mixed = (qkv.q * attn.scale @ qkv.k.transpose(-2, -1)).softmax(dim=-1) @ qkv.v
    mixed = attn.norm(mixed.transpose(1, 2).flatten(2))
    x = x + block.drop_path1(block.ls1(attn.proj_drop(attn.proj(mixed))))
    out: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return out
