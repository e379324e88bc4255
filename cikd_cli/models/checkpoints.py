"""Checkpoints as other programs write them: read without running anything, and the ViT found in them.

The law of unwrapping: dictionaries in dictionaries become dotted names, and a network is what follows the text in
front of a name that every ViT has. So any wrapper in any order comes off, and several networks are told apart.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from cikd_cli.errors import CikdError
from cikd_cli.models.formats import is_safetensors
from cikd_cli.models.pickles import Inert, read_pickle
from cikd_cli.models.weights import read_tensors

# A name that every ViT has, and how those of its blocks begin: timm's, Hugging Face's, torchvision's, CLIP's.
_ANCHORS = {
    "patch_embed.proj.weight": r"blocks\.",
    "embeddings.patch_embeddings.projection.weight": r"(encoder\.)?layers?\.\d+\.(?!blocks)",
    "conv_proj.weight": r"encoder\.layers\.encoder_layer_",
    "class_embedding": r"transformer\.resblocks\.",
}
# Wrappers of single modules: torch.compile, FSDP, activation checkpointing.
_INSIDE = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGED = {"teacher", "ema", "momentum", "target", "averaged", "swa"}
_KEPT = {"base_encoder", "encoder_q"}  # MoCo's authors go on with these, not with the momentum encoder
_DEEPEST = 12


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one network by name, in float32 and without wrappers; all of the file's if it has no ViT.

    taken: which network, where the file holds several. architecture: timm's name, where the file records one.
    """

    tensors: dict[str, Tensor]
    is_vit: bool
    taken: str = ""
    architecture: str | None = None


def open_checkpoint(path: Path) -> Checkpoint:
    """Raises CikdError for a file that holds no plain weights, or several networks of which none is the obvious one."""
    content = dict(read_tensors(path)) if is_safetensors(path) else read_pickle(path)
    flat = {_INSIDE.sub("", name): tensor for name, tensor in _flatten(content)}
    networks = _networks(flat)
    architecture = _recorded_architecture(content)
    if not networks:
        return Checkpoint(_whole(flat), is_vit=False, architecture=architecture)
    chosen, taken = _choose(networks, path)
    return Checkpoint(_whole(networks[chosen]), is_vit=True, taken=taken, architecture=architecture)


def _flatten(content: Mapping[Any, Any], front: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        if isinstance(value, dict) and depth < _DEEPEST:  # a pickle can hold itself
            yield from _flatten(value, f"{front}{key}.", depth + 1)
        elif _is_plain(value):
            yield f"{front}{key}", value


def _is_plain(value: object) -> bool:
    """A dense tensor that takes the memory its shape says, and not a view that repeats a few numbers."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _networks(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The ViTs of a file by what stands in front of their names."""
    networks: dict[str, dict[str, Tensor]] = {}
    for anchor, block in _ANCHORS.items():
        for name in flat:
            front = name.removesuffix(anchor)
            if front == name or (front and not front.endswith(".")) or front in networks:
                continue
            own = {key.removeprefix(front): value for key, value in flat.items() if key.startswith(front)}
            if any(re.match(block, key) for key in own):
                networks[front] = own
    return networks


def _choose(networks: dict[str, dict[str, Tensor]], path: Path) -> tuple[str, str]:
    """Of several networks the teacher or the average of weights: its prefix, and what to say about it."""
    if len(networks) == 1:
        return next(iter(networks)), ""
    names = _tell_apart(list(networks))
    ranked = sorted(networks, key=_rank)
    best = [front for front in ranked if _rank(front) == _rank(ranked[0])]
    if len(best) > 1 and not all(_equal(networks[best[0]], networks[front]) for front in best[1:]):
        raise CikdError(
            f"{path} holds {len(networks)} networks, {_listed([names[front] for front in networks])}, and does not say "
            "which to take.",
            hint="save the state dict of one of them, as .safetensors or with torch.save(…)",
        )
    return best[0], f"of {_listed([names[front] for front in networks])} the {names[best[0]]}"


def _rank(front: str) -> tuple[bool, int]:
    parts = front.split(".")
    words = {word for part in parts for word in part.lower().split("_")}
    return not _KEPT.intersection(parts), -len(words & _AVERAGED)


def _tell_apart(fronts: list[str]) -> dict[str, str]:
    """For each prefix its first part that not all of them have."""
    parts = {front: front.removesuffix(".").split(".") for front in fronts}
    common = set.intersection(*map(set, parts.values()))
    return {
        front: next((part for part in own if part and part not in common), "outermost") for front, own in parts.items()
    }


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}"


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _recorded_architecture(content: Mapping[Any, Any]) -> str | None:
    """timm's name in a checkpoint of timm's or DeiT's training program; none if arguments of the network go with it."""
    settings = content.get("args")
    args = settings.state if isinstance(settings, Inert) else settings
    args = args if isinstance(args, dict) else {}
    for name in (content.get("arch"), args.get("model"), args.get("arch")):
        if isinstance(name, str) and timm.is_model(name.split(".")[0]) and not args.get("model_kwargs"):
            return name
    return None
