"""Teachers: timm's VisionTransformers with or without their published weights, and small ones from scratch."""

import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from cikd_cli.errors import CikdError
from cikd_cli.models.hub import WEIGHTS, Repository, in_hub_cache, remedy
from cikd_cli.models.vit import check_heads
from cikd_cli.settings.parse import nearest
from cikd_cli.settings.patches import check_patch

A_TEACHER = "--teacher vit_base_patch16_224.dino"
SMALL = "deit_tiny_patch16_224"  # the smallest download among the plain ones


def create_teacher(
    name: str, *, num_classes: int, image_size: int = 224, pretrained: bool = False
) -> VisionTransformer:
    """A timm VisionTransformer by name with a fresh classifier; `pretrained` takes timm's published weights.

    Position embeddings are resampled when `image_size` is not the pretraining size. Raises CikdError for an unknown
    name, an architecture without the taps that ALI needs, or weights neither in the cache nor reachable.
    """
    outline(name)
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
    sizes = {"img_size": image_size, "patch_size": patch_size, "embed_dim": width, "depth": depth, "num_heads": heads}
    return VisionTransformer(num_classes=num_classes, **sizes)


def outline(name: str) -> VisionTransformer:
    """The network of a timm name without memory for its weights.

    Raises CikdError for a name that is unknown, or no plain VisionTransformer's.
    """
    base = name.split(".")[0]
    if not timm.is_model(base):
        near = nearest(base, timm.list_models(["vit_*", "deit_*"])) or SMALL  # a ResNet's name would be of no use
        raise CikdError(f"timm has no model named {name}.", hint=f"for example  --teacher {near}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [tagged for tagged in timm.list_pretrained(f"{base}.*") if tagged != name]
        near = nearest(name, tags) or base
        raise CikdError(f"timm has no weights named {name}.", hint=f"for example  --teacher {near}") from error
    with torch.device("meta"):
        model = timm.create_model(base, num_classes=config.num_classes if config else 0)
    check_tappable(model, name)
    return model


def in_cache(name: str) -> bool:
    """Whether the published weights of a timm name have been downloaded."""
    outline(name)
    config = timm.get_pretrained_cfg(name)
    return bool(config and config.hf_hub_id and in_hub_cache(config.hf_hub_id, config.hf_hub_filename or None))


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
    network, config = outline(name), timm.get_pretrained_cfg(name)
    check_patch(image_size, network.patch_embed.patch_size[0])
    if config is None or not config.hf_hub_id:
        near = timm.list_pretrained(f"{name.split('.')[0]}.*") or [A_TEACHER.removeprefix("--teacher ")]
        raise CikdError(f"timm has no published weights for {name}.", hint=f"--teacher {near[0]}, or a weights file")
    repository = Repository(config.hf_hub_id, remedy=_without_hub(name, config.hf_hub_id, network))
    path = repository.file(*([config.hf_hub_filename] if config.hf_hub_filename else WEIGHTS))
    if path is None:
        raise CikdError(f"The repository {repository.name} holds no weights for {name}.", hint=A_TEACHER)
    overlay = {"file": str(path), "custom_load": False}
    try:
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes, img_size=image_size
        )
    except AssertionError as error:
        raise CikdError(f"timm cannot build {name} at {image_size} px: {_first_line(error)}.") from error
    except Exception as error:  # safetensors', pickle's and torch's errors have no common base
        raise CikdError(
            f"The weights of {name} in {path} cannot be read ({type(error).__name__}: {_first_line(error)}).",
            hint=f"delete {path} and let it be downloaded again",
        ) from error


def _without_hub(name: str, repository: str, network: VisionTransformer) -> str:
    size = round(4e-6 * sum(parameter.numel() for parameter in network.parameters()))  # float32
    then = f"save it as {name}.safetensors and give this file instead of the name: --teacher {name}.safetensors"
    told = remedy(repository, f"model.safetensors (about {size:,} MB)", then)
    return told if size <= 23 else f"{told}; a smaller teacher: {SMALL} (23 MB)"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
