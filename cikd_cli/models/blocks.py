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
    q, k, v = attn.qkv(x).unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
    return attn.q_norm(q), attn.k_norm(k), v


def finish(block: Block, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The block's output for the tokens x (B, queries, width) that q (B, heads, queries, head_dim) belongs to."""
    attn = block.attn
    if attn.fused_attn:
        mixed = F.scaled_dot_product_attention(q, k, v)
    else:
        mixed = (q * attn.scale @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return _behind_attention(block, x, mixed.transpose(1, 2).flatten(2))


def class_token_of(block: Block, x: Tensor) -> Tensor:
    """The block's output for the first token alone, (B, 1, width); x: (B, tokens, width).

    Keys and values are not made, unless keys are normalised: q . (W x) is (W' q) . x, the keys' bias adds the same to
    every logit, and a weighted sum of values is W times that of the tokens. Logits are at least float32.
    """
    attn = block.attn
    tokens, first = block.norm1(x), x[:, :1]
    if type(attn.k_norm) is not nn.Identity:
        q, k, v = project(attn, tokens)
        return finish(block, first, q[:, :, :1], k, v)
    weight, by_head = attn.qkv.weight, (attn.num_heads, attn.head_dim)
    width = attn.num_heads * attn.head_dim
    bias = weight.new_zeros(3 * width) if attn.qkv.bias is None else attn.qkv.bias
    of_k, of_v = (part.view(*by_head, -1) for part in weight[width:].split(width))
    query = F.linear(tokens[:, 0], weight[:width], bias[:width]).view(-1, *by_head)
    asked = torch.einsum("bhd,hdw->bhw", query * attn.scale, of_k)
    with torch.autocast(x.device.type, enabled=False):
        wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        seen = (asked.to(wide.dtype) @ wide.transpose(1, 2)).softmax(dim=-1) @ wide  # (B, heads, width)
    mixed = torch.baddbmm(
        bias[-width:].view(-1, 1, attn.head_dim), seen.to(asked.dtype).transpose(0, 1), of_v.transpose(1, 2)
    )
    return _behind_attention(block, first, mixed.transpose(0, 1).flatten(1).unsqueeze(1))


def _behind_attention(block: Block, x: Tensor, mixed: Tensor) -> Tensor:
    """Projection and MLP, with their residuals; mixed: what attention makes of the values, (B, queries, width)."""
    attn = block.attn
    x = x + block.drop_path1(block.ls1(attn.proj_drop(attn.proj(attn.norm(mixed)))))
    out: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return out


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
