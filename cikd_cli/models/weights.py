"""Weights files that say what they are, and weights files from elsewhere.

Our own files are safetensors whose metadata holds the ModelSpec under the key `cikd`. Head counts do not change any
parameter's shape, so a file is only loaded when its head list is there and agrees with the network built from it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
from safetensors.torch import load_file, save
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from cikd_cli.errors import CikdError
from cikd_cli.models import teachers, vit

Triple = tuple[float, float, float]
HALF: Triple = (0.5, 0.5, 0.5)  # what a network without pretraining statistics gets, and the released code everywhere


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a network again and to feed it.

    architecture: "student", "scratch", or a timm name. heads: one count per block. classes: names, () for no head.
    """

    architecture: str
    width: int
    depth: int
    heads: tuple[int, ...]
    patch_size: int
    image_size: int
    num_classes: int
    classes: tuple[str, ...]
    mean: Triple
    std: Triple
    prefix_tokens: int = 1
    drop_path: float = 0.0

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
    def from_dict(cls, values: dict[str, Any]) -> "ModelSpec":
        """Lists become tuples; raises TypeError for missing or unknown keys."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)

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
    model = spec.build()
    if vit.head_counts(model) != spec.heads:
        raise CikdError(
            f"{path} says its blocks have {_list(spec.heads)} heads, but a {spec.architecture} has "
            f"{_list(vit.head_counts(model))}; the same tensors with other heads are another network."
        )
    _load_strictly(model, load_file(path), path, may_miss=())
    return model.eval(), spec


def read_spec(path: Path) -> ModelSpec | None:
    """The spec in a weights file's metadata; None when it is not one of ours."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return ModelSpec.from_dict(json.loads(metadata["cikd"])) if "cikd" in metadata else None
    except (OSError, safetensors.SafetensorError) as error:
        raise CikdError(f"{path} is not a readable safetensors file ({error}).") from error
    except (TypeError, ValueError) as error:
        raise CikdError(f"The description of the network in {path} is damaged ({error}).") from error


def load_foreign(path: Path, architecture: str, *, num_classes: int, image_size: int) -> VisionTransformer:
    """A timm network with the weights of a file from elsewhere.

    Only the classifier may be missing. Wrapper prefixes go, position embeddings are resampled. A .pth file is read with
    weights_only=True: code in it never runs.
    """
    model = teachers.create_teacher(architecture, num_classes=num_classes, image_size=image_size)
    tensors = {key: value for key, value in _unwrap(_read_tensors(path)).items() if not key.startswith("head")}
    try:
        adapted = checkpoint_filter_fn(tensors, model)
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise CikdError(f"The weights in {path} do not fit a {architecture} ({error}).") from error
    _load_strictly(model, adapted, path, may_miss=("head.", "head_dist.", "fc_norm."))
    return model


def architecture_of(path: Path, named: str | None) -> str:
    """The timm architecture of a file: as named by the user, else the file's own name when timm knows it."""
    if named:
        return named
    base = path.stem.split(".")[0]
    if timm.is_model(base):
        return path.stem if timm.is_model_pretrained(path.stem) else base  # .mine is no tag of timm's
    raise CikdError(
        f"{path} does not say which architecture it holds, and head counts cannot be read off the weights.",
        hint="--teacher-arch vit_base_patch16_224, or another timm name",
    )


def pretraining_statistics(architecture: str) -> tuple[Triple, Triple]:
    """Mean and std the timm weights of this name were pretrained with; 0.5/0.5 for a network from scratch."""
    config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    if config is None:
        return HALF, HALF
    return config.mean, config.std


def _read_tensors(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle each have their own
        raise CikdError(
            f"{path} cannot be read as plain weights; it is damaged, or holds more than tensors.",
            hint="save the state dict alone, as .safetensors or with torch.save(model.state_dict(), …)",
        ) from error
    if not isinstance(loaded, dict):
        raise CikdError(f"{path} holds a {type(loaded).__name__}, not a dictionary of weights.")
    return loaded


def _unwrap(weights: dict[str, Any]) -> dict[str, Tensor]:
    """Take off the usual wrappers (DINO, MAE, MoCo v3, Lightning) around the state dict and its keys."""
    for wrapper in ("state_dict", "model", "teacher", "student"):
        if isinstance(weights.get(wrapper), dict):
            weights = weights[wrapper]
    for prefix in ("module.", "model.", "backbone.", "base_encoder.", "momentum_encoder.", "encoder."):
        if any(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return {key: value for key, value in weights.items() if isinstance(value, Tensor)}


def _load_strictly(
    model: VisionTransformer, tensors: dict[str, Tensor], path: Path, *, may_miss: tuple[str, ...]
) -> None:
    expected = model.state_dict()
    missing = [key for key in expected if key not in tensors]
    unfit = [k for k, v in tensors.items() if k in expected and v.shape != expected[k].shape]
    essential = [key for key in missing if not key.startswith(may_miss)] if may_miss else missing
    surplus = [key for key in tensors if key.startswith("blocks.") and key not in expected]  # a deeper network, say
    if essential or unfit or surplus:
        wrong = (essential + unfit + surplus)[0]
        raise CikdError(
            f"{path} does not fit: {len(essential)} tensors are missing, {len(unfit)} have another shape and "
            f"{len(surplus)} have no place ({wrong}).",
            hint="check --teacher-arch, or take the weights of another architecture",
        )
    model.load_state_dict({key: value for key, value in tensors.items() if key in expected}, strict=False)


def _list(heads: tuple[int, ...]) -> str:
    return ", ".join(map(str, heads))
