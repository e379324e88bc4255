"""Weights files that say what they are, and weights files from elsewhere.

Our own files are safetensors whose metadata holds the ModelSpec under the key `cikd`. Head counts do not change any
parameter's shape, so a file is only loaded when its head list is there and agrees with the network built from it.
"""

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors
import timm
import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import load_file, save
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
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
    tensors = _read_safetensors(path)
    if not any(name.startswith(f"blocks.{spec.depth - 1}.") for name in tensors):
        raise CikdError(f"{path} does not fit: it has no block {spec.depth}.")
    with torch.device("meta"):  # without memory: the description may claim any size
        _check_fit(spec.build().state_dict(), tensors, path, may_miss=())
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


def load_foreign(path: Path, architecture: str, *, num_classes: int, image_size: int) -> VisionTransformer:
    """A timm network with the weights of a file from elsewhere.

    Only the classifier may be missing. Wrapper prefixes go, position embeddings are resampled. A .pth file is read with
    weights_only=True: code in it never runs.
    """
    tensors = {key: value for key, value in _unwrap(_read_tensors(path)).items() if not key.startswith("head")}
    model = teachers.create_teacher(architecture, num_classes=num_classes, image_size=image_size)
    try:
        adapted = checkpoint_filter_fn(tensors, model)
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise CikdError(f"The weights in {path} do not fit a {architecture} ({error}).") from error
    expected = model.state_dict()
    _check_fit(expected, adapted, path, may_miss=("head.", "head_dist.", "fc_norm."))
    model.load_state_dict({key: value for key, value in adapted.items() if key in expected}, strict=False)
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
    if path.suffix == ".safetensors":
        return dict(_read_safetensors(path))
    _refuse_compressed(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch, zipfile and pickle each have their own
        raise CikdError(
            f"{path} cannot be read as plain weights; it is damaged, or holds more than tensors.",
            hint="save the state dict alone, as .safetensors or with torch.save(model.state_dict(), …)",
        ) from error
    if not isinstance(loaded, dict):
        raise CikdError(f"{path} holds a {type(loaded).__name__}, not a dictionary of weights.")
    return loaded


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise CikdError(f"{path} is not a readable safetensors file ({error}).") from error
    return tensors


def _refuse_compressed(path: Path) -> None:
    """torch.save compresses nothing, so an archive that holds more than its file's size was made to fill memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return  # no archive, or one that torch refuses too
    if size > path.stat().st_size:
        raise CikdError(f"{path} is compressed: its {path.stat().st_size:,} bytes would become {size:,}.")


def _unwrap(weights: dict[str, Any]) -> dict[str, Tensor]:
    """Take off the usual wrappers (DINO, MAE, MoCo v3, Lightning) around the state dict and its keys."""
    weights = {key: value for key, value in weights.items() if isinstance(key, str)}
    for wrapper in ("state_dict", "model", "teacher", "student"):
        if isinstance(weights.get(wrapper), dict):
            weights = {key: value for key, value in weights[wrapper].items() if isinstance(key, str)}
    for prefix in ("module.", "model.", "backbone.", "base_encoder.", "momentum_encoder.", "encoder."):
        if any(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return {key: value for key, value in weights.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    """A dense tensor that takes the memory its shape says, and not a view that repeats a few numbers."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _check_fit(
    expected: dict[str, Tensor], tensors: dict[str, Tensor], path: Path, *, may_miss: tuple[str, ...]
) -> None:
    missing = [key for key in expected if key not in tensors]
    unfit = [
        key
        for key, value in tensors.items()
        if key in expected and (value.shape != expected[key].shape or not value.is_floating_point())
    ]
    essential = [key for key in missing if not key.startswith(may_miss)] if may_miss else missing
    surplus = [key for key in tensors if key.startswith("blocks.") and key not in expected]  # a deeper network, say
    if essential or unfit or surplus:
        wrong = (essential + unfit + surplus)[0]
        raise CikdError(
            f"{path} does not fit: {len(essential)} tensors are missing, {len(unfit)} have another shape or type and "
            f"{len(surplus)} have no place ({wrong}).",
            hint="check --teacher-arch, or take the weights of another architecture",
        )


def _list(heads: tuple[int, ...]) -> str:
    return ", ".join(map(str, heads))
