"""Weights files that say what they are.

Our own files are safetensors whose metadata holds the ModelSpec under the key `cikd`. Head counts do not change any
parameter's shape, so a file is only loaded when its head list is there and agrees with the network built from it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors
import timm
import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import load_file, save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cikd_cli.errors import CikdError
from cikd_cli.models import teachers, vit

Triple = tuple[float, float, float]
Size = Annotated[int, Field(ge=1, le=2**16)]
HALF: Triple = (0.5, 0.5, 0.5)  # what a network without pretraining statistics gets, and the released code everywhere


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a network again and to feed it.

    architecture: "student", "scratch", or a timm name. heads: one count per block. classes: names, () for no head.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    architecture: str
    width: Size
    depth: Size
    heads: tuple[Size, ...]
    patch_size: Size
    image_size: Size
    num_classes: Annotated[int, Field(ge=0, le=2**24)]
    classes: tuple[str, ...]
    mean: Triple
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    prefix_tokens: Annotated[int, Field(ge=0, le=2**16)] = 1
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @classmethod
    def describe(
        cls,
        model: VisionTransformer,
        architecture: str,
        *,
        classes: tuple[str, ...],
        mean: Triple,
        std: Triple,
        drop_path: float = 0.0,
    ) -> "ModelSpec":
        """The spec of a network as it stands."""
        return cls(
            architecture=architecture,
            width=model.embed_dim,
            depth=len(model.blocks),
            heads=vit.head_counts(model),
            patch_size=model.patch_embed.patch_size[0],
            image_size=model.patch_embed.img_size[0],
            num_classes=model.num_classes,
            classes=classes,
            mean=mean,
            std=std,
            prefix_tokens=model.num_prefix_tokens,
            drop_path=drop_path,
        )

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Raises ValueError, in one line, for missing or unknown keys, and for values that no network has."""
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            raise ValueError(f"{'.'.join(map(str, detail['loc']))} {detail['msg']}".strip()) from None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def build(self) -> VisionTransformer:
        """A network of this shape with untrained weights."""
        if self.architecture == "student":
            return vit.create_student(
                "custom",
                num_classes=self.num_classes,
                image_size=self.image_size,
                patch_size=self.patch_size,
                end_heads=self.heads[0],
                width=self.width,
                depth=self.depth,
                heads=self.heads[len(self.heads) // 2],
                drop_path=self.drop_path,
            )
        if self.architecture == "scratch":
            return teachers.create_scratch_teacher(
                num_classes=self.num_classes,
                image_size=self.image_size,
                patch_size=self.patch_size,
                width=self.width,
                depth=self.depth,
                heads=self.heads[0],
            )
        return teachers.create_teacher(self.architecture, num_classes=self.num_classes, image_size=self.image_size)


def encode_model(model: VisionTransformer, spec: ModelSpec) -> bytes:
    """A whole weights file, spec included; equal networks give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return save(tensors, metadata={"cikd": json.dumps(spec.as_dict())})  # one key: several are written in any order


def load_model(path: Path) -> tuple[VisionTransformer, ModelSpec]:
    """The network of one of our weights files, on the CPU in eval mode.

    Raises CikdError for a file without our metadata, with a head list that does not fit, or with other tensors.
    """
    spec = read_spec(path)
    if spec is None:
        raise CikdError(
            f"{path} does not say which network it holds (no head list in its metadata).",
            hint=f"cikd finetune-teacher --teacher {path} --teacher-arch NAME --data …",
        )
    if len(spec.heads) != spec.depth:
        raise CikdError(f"{path} lists heads for {len(spec.heads)} blocks but has {spec.depth}.")
    if spec.classes and len(spec.classes) != spec.num_classes:
        raise CikdError(f"{path} does not fit: it names {len(spec.classes)} classes of {spec.num_classes}.")
    tensors = read_tensors(path)
    if not any(name.startswith(f"blocks.{spec.depth - 1}.") for name in tensors):
        raise CikdError(f"{path} does not fit: it has no block {spec.depth}.")
    with torch.device("meta"):  # without memory: the description may claim any size
        check_fit(spec.build().state_dict(), tensors, path, may_miss=())
    model = spec.build()
    if vit.head_counts(model) != spec.heads:
        raise CikdError(
            f"{path} says its blocks have {_list(spec.heads)} heads, but a {spec.architecture} has "
            f"{_list(vit.head_counts(model))}; the same tensors with other heads are another network."
        )
    if model.num_prefix_tokens != spec.prefix_tokens:
        raise CikdError(f"{path} says it has {spec.prefix_tokens} prefix tokens, not {model.num_prefix_tokens}.")
    model.load_state_dict(tensors, strict=False)
    return model.eval(), spec


def read_spec(path: Path) -> ModelSpec | None:
    """The spec in a weights file's metadata; None when it is not one of ours."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise CikdError(f"{path} is not a readable safetensors file ({error}).") from error
    try:
        return ModelSpec.from_json(metadata["cikd"]) if "cikd" in metadata else None
    except ValueError as error:
        raise CikdError(f"The description of the network in {path} is damaged ({error}).") from error


def pretraining_statistics(architecture: str) -> tuple[Triple, Triple]:
    """Mean and std the timm weights of this name were pretrained with; 0.5/0.5 for a network from scratch."""
    config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    if config is None:
        return HALF, HALF
    return config.mean, config.std


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises CikdError for a damaged one."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise CikdError(f"{path} is not a readable safetensors file ({error}).") from error
    return tensors


def check_fit(
    expected: dict[str, Tensor],
    tensors: dict[str, Tensor],
    path: Path,
    *,
    may_miss: tuple[str, ...],
    trunk: tuple[str, ...] = ("blocks.",),
) -> None:
    """Raise CikdError unless `tensors` are what a network expects.

    may_miss: prefixes of those it can do without. trunk: prefixes of those that must have a place in it.
    """
    missing = [key for key in expected if key not in tensors]
    unfit = [
        key
        for key, value in tensors.items()
        if key in expected and (value.shape != expected[key].shape or not value.is_floating_point())
    ]
    essential = [key for key in missing if not key.startswith(may_miss)] if may_miss else missing
    surplus = [key for key in tensors if key.startswith(trunk) and key not in expected]  # a deeper network, say
    if essential or unfit or surplus:
        wrong = (essential + unfit + surplus)[0]
        raise CikdError(
            f"{path} does not fit: {len(essential)} tensors are missing, {len(unfit)} have another shape or type and "
            f"{len(surplus)} have no place ({wrong}).",
            hint="copy or save the file again, whole",
        )


def _list(heads: tuple[int, ...]) -> str:
    return ", ".join(map(str, heads))
