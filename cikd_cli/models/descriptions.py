"""What lies beside weights and tells what they are: timm's and Hugging Face's config.json, and a preprocessor's."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from cikd_cli.errors import CikdError
from cikd_cli.files import read_text
from cikd_cli.models import teachers
from cikd_cli.models.network import head_counts
from cikd_cli.models.shapes import Shape, names_of
from cikd_cli.models.spec import Triple

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_MOST = 2**20  # bytes of a description
# Arguments that change no tensor and not what a class token is: sizes and classes are ours, and nothing is dropped.
_HARMLESS = (
    *("num_classes", "img_size", "global_pool", "fc_norm", "weight_init", "fix_init"),
    *("dynamic_img_size", "dynamic_img_pad", "strict_img_size", "pretrained_strict", "cache_dir"),
)
_KINDS = ("vit", "deit", "dinov2", "dinov2_with_registers", "vit_mae", "vit_msn")


@dataclass(frozen=True)
class Description:
    """architecture: timm's name; heads: of each block; mean, std: of the images. None where it does not say."""

    architecture: str | None
    heads: int | None = None
    mean: Triple | None = None
    std: Triple | None = None


def read_description(config: Path, preprocessor: Path | None = None) -> Description | None:
    """What config.json says; None if it is neither timm's nor that of one of Hugging Face's plain ViTs.

    Raises CikdError for a file that is damaged, or that describes a network which timm's name alone does not make.
    """
    settings = _load(config)
    if isinstance(settings.get("architecture"), str):
        return _timm(settings, config)
    if settings.get("model_type") not in _KINDS:
        return None
    images = _load(preprocessor) if preprocessor is not None else {}
    mean, std = _triple(images.get("image_mean")), _triple(images.get("image_std"))
    heads = settings.get("num_attention_heads", 12)
    shape = _hugging_face_shape(settings)
    names = names_of(shape) if shape is not None else []
    name = next((name for name in names if set(head_counts(teachers.outline(name))) == {heads}), None)
    return Description(name, heads, mean, std)


def check_heads_of(model: VisionTransformer, description: Description, path: Path, architecture: str) -> None:
    """Refuse a network with other heads than a description says: the same tensors, and another function."""
    if description.heads is not None and set(head_counts(model)) != {description.heads}:
        raise CikdError(
            f"{path} is of a network with {description.heads} heads, but a {architecture} has {head_counts(model)[0]}.",
            hint=f"--teacher-arch {description.architecture}" if description.architecture else teachers.A_TEACHER,
        )


def _load(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(read_text(path, most=_MOST))
    except (ValueError, OSError, RecursionError) as error:
        raise CikdError(f"{path} is damaged ({error}).", hint="download it again") from error
    return settings if isinstance(settings, dict) else {}


def _timm(settings: Mapping[str, Any], path: Path) -> Description:
    name = str(settings["architecture"])
    teachers.outline(name)
    pretrained, arguments = settings.get("pretrained_cfg"), settings.get("model_args")
    _refuse_other_arguments(name, arguments if isinstance(arguments, dict) else {}, path)
    images = pretrained if isinstance(pretrained, dict) else settings  # before timm 0.9 all was in one
    return Description(name, mean=_triple(images.get("mean")), std=_triple(images.get("std")))


def _refuse_other_arguments(name: str, arguments: dict[str, Any], path: Path) -> None:
    """Refuse arguments that make another network than timm's name does, which is all that a run keeps of it."""
    telling = {key: value for key, value in arguments.items() if key not in _HARMLESS and not key.endswith("drop_rate")}
    telling = {
        key: value for key, value in telling.items() if (key, value) not in (("in_chans", 3), ("drop_path_rate", 0))
    }
    if not telling:
        return
    said = ", ".join(f"{key} = {value}" for key, value in telling.items())
    with torch.device("meta"):
        try:
            one, other = timm.create_model(name, num_classes=0), timm.create_model(name, num_classes=0, **telling)
        except Exception as error:
            raise CikdError(f"timm cannot build the {name} of {path} ({said}).") from error
    if str(one) != str(other) or head_counts(one) != head_counts(other):
        raise CikdError(
            f"{path} describes a {name} with {said}, another network than timm's of this name.",
            hint="take one of timm's own architectures",
        )


def _hugging_face_shape(settings: Mapping[str, Any]) -> Shape | None:
    """None for one that timm's plain ViTs do not have."""
    kind = str(settings["model_type"])
    dinov2 = kind.startswith("dinov2")
    width, patch = settings.get("hidden_size", 768), settings.get("patch_size", 14 if dinov2 else 16)
    if settings.get("hidden_act", "gelu") != "gelu" or settings.get("use_swiglu_ffn"):
        return None
    if not all(isinstance(number, int) for number in (width, patch)):
        return None
    return Shape(
        width=width,
        depth=settings.get("num_hidden_layers", 12),
        patch=patch,
        registers=settings.get("num_register_tokens", 4) if kind == "dinov2_with_registers" else 0,
        distilled=kind == "deit",
        hidden=4 * width if dinov2 else settings.get("intermediate_size", 3072),
        layer_scale=dinov2,
        pre_norm=False,
        qk_norm=False,
        qkv_bias=bool(settings.get("qkv_bias", True)),
    )


def _triple(value: object) -> Triple | None:
    if isinstance(value, list) and len(value) == 3 and all(isinstance(number, int | float) for number in value):
        return (float(value[0]), float(value[1]), float(value[2]))
    return None
