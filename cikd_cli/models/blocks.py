"""The pieces of a stock timm ViT's forward pass, so that a pass can take from it only what is needed."""

import torch
import torch.nn.functional as F
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


def fuse_attention(network: nn.Module, fused: bool) -> None:
    """Let all attention in a network be timm's fused kind, or two products and a softmax."""
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", fused)  # noqa: B010 - a flag of timm's Attention, unknown to nn.Module


def embed(vit: VisionTransformer, images: Tensor) -> Tensor:
    """What enters the first block: patch tokens behind the prefix tokens, with positions, (B, tokens, width)."""
    x: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(_patch_tokens(vit.patch_embed, images))))
    return x


def project(attn: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v after q/k norm, each (B, heads, tokens, head_dim), of normalised tokens x (B, tokens, width)."""
    q, k, v = _by_head(attn, attn.qkv(x), parts=3)
    return attn.q_norm(q), attn.k_norm(k), v


def finish(block: Block, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The block's output for the tokens x (B, queries, width) that q (B, heads, queries, head_dim) belongs to."""
    attn = block.attn
    if attn.fused_attn:
        mixed = F.scaled_dot_product_attention(q, k, v)
    else:
        mixed = (q * attn.scale @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    mixed = attn.norm(mixed.transpose(1, 2).flatten(2))
    x = x + block.drop_path1(block.ls1(attn.proj_drop(attn.proj(mixed))))
    out: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return out


def class_token_of(block: Block, x: Tensor) -> Tensor:
    """The block's output for the first token alone, (B, 1, width); x: (B, tokens, width).

    Its query, projection and MLP are those of one token; keys and values are those of all.
    """
    attn = block.attn
    tokens = block.norm1(x)
    weight, bias = attn.qkv.weight, attn.qkv.bias
    width = attn.num_heads * attn.head_dim
    of_q, of_kv = (None, None) if bias is None else (bias[:width], bias[width:])
    (q,) = _by_head(attn, F.linear(tokens[:, :1], weight[:width], of_q), parts=1)
    k, v = _by_head(attn, F.linear(tokens, weight[width:], of_kv), parts=2)
    return finish(block, x[:, :1], attn.q_norm(q), attn.k_norm(k), v)


def _by_head(attn: Attention, x: Tensor, *, parts: int) -> tuple[Tensor, ...]:
    batch, tokens, _ = x.shape
    return x.reshape(batch, tokens, parts, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)


def _patch_tokens(embedding: PatchEmbed, images: Tensor) -> Tensor:
    """The patch embedding as one matrix product in half precision, where that is faster than a convolution."""
    half = images.dtype in HALF or torch.is_autocast_enabled(images.device.type)
    plain = type(embedding) is PatchEmbed and embedding.flatten and not embedding.dynamic_img_pad
    tokens: Tensor
    if half and plain and images.shape[-2:] == embedding.img_size:
        (rows, cols), (high, wide) = embedding.grid_size, embedding.patch_size
        batch, channels = images.shape[:2]
        patches = images.reshape(batch, channels, rows, high, cols, wide).permute(0, 2, 4, 1, 3, 5)
        flat = patches.reshape(batch, rows * cols, channels * high * wide)
        tokens = embedding.norm(F.linear(flat, embedding.proj.weight.flatten(1), embedding.proj.bias))
    else:
        tokens = embedding(images)
    return tokens
