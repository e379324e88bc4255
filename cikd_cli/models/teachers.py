"""Teachers: timm's VisionTransformers with or without their published weights, and small ones from scratch."""

from difflib import get_close_matches

import timm
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from cikd_cli.errors import CikdError
from cikd_cli.models.vit import check_heads, check_patch

TIMEOUT = 10.0  # seconds for the hub's first answer; a download by itself retries for a minute before it gives up
HUB_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
A_TEACHER = "--teacher vit_base_patch16_224.dino"


def create_teacher(
    name: str, *, num_classes: int, image_size: int = 224, pretrained: bool = False
) -> VisionTransformer:
    """A timm VisionTransformer by name with a fresh classifier; `pretrained` takes timm's published weights.

    Position embeddings are resampled when `image_size` is not the pretraining size. Raises CikdError for an unknown
    name, an architecture without the taps that ALI needs, or weights neither in the cache nor reachable.
    """
    check_architecture(name)
    if pretrained:
        return _fetch(name, num_classes=num_classes, image_size=image_size)
    try:
        return timm.create_model(name, num_classes=num_classes, img_size=image_size)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise CikdError(f"timm cannot build {name} at {image_size} px: {_first_line(error)}.") from error


def create_scratch_teacher(
    *, num_classes: int, image_size: int, patch_size: int, width: int, depth: int, heads: int
) -> VisionTransformer:
    """A small teacher without pretrained weights: a plain ViT with timm's initialisation."""
    check_heads(width, [heads])
    check_patch(image_size, patch_size)
    return VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
    )


def check_architecture(name: str) -> None:
    """Refuse a timm name that is unknown or no plain VisionTransformer, before any weights are made or fetched."""
    base = name.split(".")[0]
    if not timm.is_model(base):
        near = get_close_matches(base, timm.list_models(), n=1, cutoff=0.0)
        raise CikdError(f"timm has no model named {name}.", hint=f"for example  --teacher {near[0]}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [tagged for tagged in timm.list_pretrained(f"{base}.*") if tagged != name]
        near = get_close_matches(name, tags, n=1, cutoff=0.0) or [base]
        raise CikdError(f"timm has no weights named {name}.", hint=f"for example  --teacher {near[0]}") from error
    with torch.device("meta"):
        check_tappable(timm.create_model(base), name)


def in_cache(name: str) -> bool:
    """Whether the published weights of a timm name have been downloaded."""
    check_architecture(name)
    config = timm.get_pretrained_cfg(name)
    return bool(config and config.hf_hub_id and _cached(config.hf_hub_id))


def check_tappable(model: nn.Module, name: str) -> None:
    """Refuse a model whose blocks are not pre-norm attention with one qkv projection, or without a class token."""
    if not isinstance(model, VisionTransformer):
        raise CikdError(
            f"{name} is a {type(model).__name__}; ALI copies query, key and value of a plain VisionTransformer.",
            hint=A_TEACHER,
        )
    if not all(type(block) is Block and getattr(block.attn, "gate", None) is None for block in model.blocks):
        raise CikdError(f"{name} has other blocks than plain pre-norm attention, which ALI copies.", hint=A_TEACHER)
    if not model.has_class_token:
        raise CikdError(f"{name} has no class token, which the method needs.", hint=A_TEACHER)


def _fetch(name: str, *, num_classes: int, image_size: int) -> VisionTransformer:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise CikdError(
            f"timm has no published weights for {name}.",
            hint="--teacher FILE takes local weights; --teacher scratch trains a small teacher",
        )
    try:
        if config.hf_hub_id and not _cached(config.hf_hub_id):
            HfApi().model_info(config.hf_hub_id, timeout=TIMEOUT)
        return timm.create_model(name, pretrained=True, num_classes=num_classes, img_size=image_size)
    except AssertionError as error:
        raise CikdError(f"timm cannot build {name} at {image_size} px: {_first_line(error)}.") from error
    except Exception as error:  # the hub's, its HTTP client's and the file system's errors have no common base
        raise CikdError(
            f"The weights of {name} are neither in the cache nor reachable ({type(error).__name__}).",
            hint="--teacher FILE takes local weights; --teacher scratch trains a small teacher",
        ) from error


def _cached(repository: str) -> bool:
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in HUB_FILES)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
