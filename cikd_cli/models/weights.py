"""Weights files that say what they are.

Our own files are safetensors whose metadata holds the ModelSpec under the key `cikd`. Head counts do not change any
parameter's shape, so a file is only loaded when its head list is there and agrees with the network built from it.
"""

import json
from pathlib import Path

import safetensors
import timm
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cikd_cli.errors import CikdError
from cikd_cli.models.network import head_counts
from cikd_cli.models.spec import HALF, ModelSpec, Triple


def encode_model(model: nn.Module, spec: ModelSpec) -> bytes:
    """A whole weights file, spec included; equal networks give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return save(tensors, metadata={"cikd": json.dumps(spec.as_dict())})  # one key: several are written in any order


def load_model(path: Path) -> tuple[nn.Module, ModelSpec]:
    """The network of one of our weights files, on the CPU in eval mode.

    Raises CikdError for a file without our metadata, with a head list that does not fit, or with other tensors.
    """
    spec = read_spec(path)
    if spec is None:
        raise CikdError(
            f"{path} does not say which network it holds (no head list in its metadata).",
            hint=f"cikd finetune-teacher --teacher {path} --teacher-arch NAME --data …",
        )
    if spec.classes and len(spec.classes) != spec.num_classes:
        raise CikdError(f"{path} does not fit: it names {len(spec.classes)} classes of {spec.num_classes}.")
    tensors = read_tensors(path)
    if int(spec.arguments.get("depth", 0)) > len(tensors):  # building even an outline of so many blocks takes long
        raise CikdError(f"{path} does not fit: it has no block {spec.arguments['depth']}.")
    with torch.device("meta"):  # without memory: the description may claim any size
        check_fit(spec.build().state_dict(), tensors, path, may_miss=(), trunk=("",))
    model = spec.build()
    if head_counts(model) != spec.heads:
        said, has = (", ".join(map(str, heads)) for heads in (spec.heads, head_counts(model)))
        raise CikdError(
            f"{path} says its blocks have {said} heads, but a {spec.name} has {has}; the same tensors with other heads "
            "are another network."
        )
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
        if key in expected
        and (value.shape != expected[key].shape or value.is_floating_point() != expected[key].is_floating_point())
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
