"""The names that other programs give to a ViT's tensors, and timm's for them."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Hugging Face's ViT, DeiT, MAE and DINOv2; their attention has two spellings, before and since version 5.
_HUGGING_FACE = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.(?:attention\.)?(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.(q|k|v)_proj\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.w3."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)
_TORCHVISION = (
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"^encoder\.ln\.", "norm."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
)
_CLIP = (
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^proj$", "head.weight"),
    (r"^transformer\.resblocks\.(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_MARKS = {  # a tensor that tells whose names they are
    "embeddings.patch_embeddings.projection.weight": _HUGGING_FACE,
    "conv_proj.weight": _TORCHVISION,
    "class_embedding": _CLIP,
}
_DINOV2 = ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),)  # in training its blocks lie in chunks, counted through
_JOINED = (  # parts that timm keeps in one tensor, in its order
    (("attn.q.", "attn.k.", "attn.v."), "attn.qkv."),
    (("attn.query.", "attn.key.", "attn.value."), "attn.qkv."),
    (("mlp.gate_proj.", "mlp.up_proj."), "mlp.w12."),
)


def to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under timm's names, or those that timm's own filter reads; others keep theirs."""
    rules = next((rules for mark, rules in _MARKS.items() if mark in tensors), _DINOV2)
    named = dict(tensors)
    for pattern, replacement in rules:
        named = {re.sub(pattern, replacement, name): tensor for name, tensor in named.items()}
    for parts, whole in _JOINED:
        named = _join(named, parts, whole)
    for name in ("cls_token", "pos_embed"):  # CLIP's have no axis for the batch
        if name in named and named[name].ndim < 3:
            named[name] = named[name].reshape(1, -1, named[name].shape[-1])
    if "register_tokens" in named or "blocks.0.mlp.w12.weight" in named:
        named.setdefault("mask_token", torch.zeros(0))  # by which timm's filter knows DINOv2's
    return named


def norm_after_pooling(tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Take the norm that a mean-pooled network has after its pooling for the final one; whether there was one."""
    wanted = "norm.weight" in expected and "norm.weight" not in tensors and "fc_norm.weight" in tensors
    if wanted:
        for kind in ("weight", "bias"):
            if f"fc_norm.{kind}" in tensors:
                tensors[f"norm.{kind}"] = tensors.pop(f"fc_norm.{kind}")
    return wanted


def _join(tensors: dict[str, Tensor], parts: tuple[str, ...], whole: str) -> dict[str, Tensor]:
    joined = {}
    for name, tensor in tensors.items():
        own = next((part for part in parts if part in name), None)
        family = [name.replace(own, part) for part in parts] if own else []
        if own is None or not all(member in tensors for member in family):
            joined[name] = tensor
        elif own == parts[0]:
            joined[name.replace(own, whole)] = torch.cat([tensors[member] for member in family])
    return joined
