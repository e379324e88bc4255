"""What a network says of itself, whatever its type, and the builders of those that weights files may name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

import timm
from pydantic import ConfigDict, Field, TypeAdapter
from timm.layers import DropPath
from timm.models import group_parameters
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from typing_extensions import TypedDict

from cikd_cli.errors import CikdError
from cikd_cli.models import vit
from cikd_cli.models.blocks import embed, finish, project
from cikd_cli.models.drop_path import StochasticDepth
from cikd_cli.models.taps import QKV
from cikd_cli.models.teachers import create_scratch_teacher

Size = Annotated[int, Field(ge=1, le=2**16)]
Share = Annotated[float, Field(ge=0, lt=1)]
_UNDECAYED = ("cls_token", "pos_embed", "reg_token", "dist_token")  # of a ViT, as the recipes have it


def blocks(network: nn.Module) -> list[nn.Module]:
    """Its blocks, first to last; those of a network of stages one stage after the other; [] where it has none."""
    found: Any = getattr(network, "blocks", None)
    if isinstance(found, nn.Sequential | nn.ModuleList):
        return list(found)
    stages: Any = getattr(network, "stages", None) or getattr(network, "transformers", None) or ()
    return [block for stage in stages for block in getattr(stage, "blocks", ())]


def head_counts(network: nn.Module) -> tuple[int, ...]:
    """Heads of every block that has any, first to last."""
    counts = [getattr(getattr(block, "attn", None), "num_heads", None) for block in blocks(network)]
    return tuple(int(count) for count in counts if count is not None)


def patch_size(network: nn.Module) -> int | None:
    """The side of its patches, in pixels; None for a network that has none."""
    found: Any = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    return int(found[0]) if found else None


def image_size(network: nn.Module) -> int | None:
    """The side of its input, in pixels; None for a network that takes any."""
    found: Any = getattr(getattr(network, "patch_embed", None), "img_size", None)
    return int(found[0]) if found else None


def width(network: nn.Module) -> int | None:
    """Its channels behind the last block, as timm counts them."""
    found: Any = getattr(network, "num_features", None)
    return int(found) if found else None


def shape(network: VisionTransformer) -> dict[str, Any]:
    """The arguments that a plain ViT is built by, beside classes and image size."""
    return {
        "width": network.embed_dim,
        "depth": len(network.blocks),
        "heads": list(head_counts(network)),
        "patch_size": patch_size(network),
    }


def describe(network: nn.Module) -> str:
    """'12 blocks, 192-d, heads 12, 6 × 10, 12, patch 16, 5.50 M'."""
    runs: list[list[int]] = []
    for count in head_counts(network):
        if runs and runs[-1][0] == count:
            runs[-1][1] += 1
        else:
            runs.append([count, 1])
    heads = ", ".join(str(count) if times == 1 else f"{count} × {times}" for count, times in runs)
    deep, wide, patch = len(blocks(network)), width(network), patch_size(network)
    parts = ((deep, f"{deep} blocks"), (wide, f"{wide}-d"), (heads, f"heads {heads}"), (patch, f"patch {patch}"))
    size = f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M"
    return ", ".join([text for there, text in parts if there] + [size])


def classifier(network: nn.Module) -> list[nn.Module]:
    """What maps features to classes: one layer, two in a distilled network, [] in one without classes."""
    found: Any = network.get_classifier()  # type: ignore[operator]
    layers = list(found) if isinstance(found, tuple | list) else [found]
    return [layer for layer in layers if isinstance(layer, nn.Module) and any(True for _ in layer.parameters())]


def classifier_names(network: nn.Module) -> set[str]:
    """The names of the classifier's tensors in the network's state."""
    layers = {id(layer) for layer in classifier(network)}
    found = [(name, module) for name, module in network.named_modules() if id(module) in layers]
    return {f"{name}.{tensor}" for name, module in found for tensor in module.state_dict()}


def undecayed(network: nn.Module) -> tuple[str, ...]:
    """The ends of the names of tensors of two dimensions and more that take no weight decay."""
    if isinstance(network, VisionTransformer):
        return _UNDECAYED
    return tuple(sorted(getattr(network, "no_weight_decay", set)()))


def levels(network: nn.Module) -> tuple[dict[str, int], int]:
    """How deep each parameter lies, from 0 at the input, and the deepest level: a ViT's blocks, else timm's groups."""
    names = [name for name, _ in network.named_parameters()]
    if isinstance(network, VisionTransformer):
        deepest = len(network.blocks) + 1
        return {name: _level(name, deepest) for name in names}, deepest
    matcher: Any = getattr(network, "group_matcher", None)
    found: dict[str, int] = group_parameters(network, matcher(coarse=False), reverse=True) if matcher else {}
    return found, max(found.values(), default=0)


def seed_drop_path(network: nn.Module) -> None:
    """Put the seeded StochasticDepth in the place of every DropPath of timm's, with its rate."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, DropPath):
                setattr(module, name, StochasticDepth(float(child.drop_prob)))


def read(network: nn.Module, images: Tensor, points: Sequence[str]) -> dict[str, QKV | Tensor]:
    """What is seen at some points of one pass: `qkv:3`, `hidden:4` and `logits`; blocks count from 1.

    images: (B, 3, H, W). qkv: a QKV; hidden: what leaves a block, (B, tokens, width), or a level of timm's feature_info
    where the network is made of stages, (B, C, H, W); logits: (B, classes).

    Raises:
        CikdError: a network that has no such point.
    """
    if isinstance(network, VisionTransformer):
        return _read_vit(network, images, points)
    wanted = {point: int(point.removeprefix("hidden:")) - 1 for point in points if point.startswith("hidden:")}
    other = [point for point in points if point not in wanted and point != "logits"]
    if other or (wanted and not hasattr(network, "forward_intermediates")):
        raise CikdError(f"A {type(network).__name__} has no {(other or list(wanted))[0]} to be read")
    if not wanted:
        return {"logits": network(images)} if points else {}
    run: Any = network.forward_intermediates
    last, between = run(images, indices=sorted(set(wanted.values())))
    found = dict(zip(sorted(set(wanted.values())), between, strict=True))
    seen: dict[str, QKV | Tensor] = {point: found[place] for point, place in wanted.items()}
    head: Any = network.forward_head
    return seen | ({"logits": head(last)} if "logits" in points else {})


def _read_vit(network: VisionTransformer, images: Tensor, points: Sequence[str]) -> dict[str, QKV | Tensor]:
    seen: dict[str, QKV | Tensor] = {}
    x = embed(network, images)
    for number, block in enumerate(network.blocks, start=1):
        if f"qkv:{number}" in points:
            seen[f"qkv:{number}"] = qkv = QKV(*project(block.attn, block.norm1(x)))
            x = finish(block, x, *qkv)
        else:
            x = block(x)
        if f"hidden:{number}" in points:
            seen[f"hidden:{number}"] = x
    if "logits" in points:
        seen["logits"] = network.forward_head(network.norm(x))
    for point in set(points) - set(seen):
        raise CikdError(f"A network of {len(network.blocks)} blocks has no {point} to be read")
    return seen


def create_timm(name: str, *, num_classes: int, image_size: int, drop_path: float = 0.0) -> nn.Module:
    """Any network of timm by name, untrained; what it does not take of image size and drop path it does without.

    Raises CikdError for a name that timm has not, or a size that it cannot be built at.
    """
    if not timm.is_model(name.split(".")[0]):
        raise CikdError(f"timm has no model named {name}.")
    settings: dict[str, Any] = {"img_size": image_size, "drop_path_rate": drop_path}
    while True:
        try:
            made: nn.Module = timm.create_model(name, num_classes=num_classes, **settings)
            seed_drop_path(made)
            return made
        except TypeError as error:
            refused = [key for key in settings if f"'{key}'" in str(error)]
            if not refused:
                raise
            del settings[refused[0]]
        except (RuntimeError, ValueError, AssertionError) as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CikdError(f"timm cannot build {name} at {image_size} px: {told}.") from error


_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Vit(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    width: Size
    depth: Size
    heads: Annotated[list[Size], Field(min_length=1)]
    patch_size: Size


class _Student(_Vit):
    drop_path: NotRequired[Share]


class _Timm(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    name: str
    drop_path: NotRequired[Share]


@dataclass(frozen=True)
class Builder:
    """A kind of network. build(num_classes=, image_size=, **arguments); arguments: their types."""

    build: Callable[..., nn.Module]
    arguments: type

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raises ValueError for arguments that no such network has."""
        TypeAdapter(self.arguments).validate_python(arguments)
        if len(arguments.get("heads", ())) != arguments.get("depth", 0):
            raise ValueError("arguments.heads are not one for each block")


def _student(*, heads: list[int], drop_path: float = 0.0, **shape: Any) -> nn.Module:
    counts = {"end_heads": heads[0], "heads": heads[len(heads) // 2]}
    made: nn.Module = vit.create_student(vit.CUSTOM, drop_path=drop_path, **counts, **shape)
    return made


def _scratch(*, heads: list[int], **shape: Any) -> nn.Module:
    made: nn.Module = create_scratch_teacher(heads=heads[0], **shape)
    return made


# Every kind that a weights file may name; `timm` is any of timm's networks, by its name.
NETWORKS: dict[str, Builder] = {
    "student": Builder(_student, _Student),
    "scratch": Builder(_scratch, _Vit),
    "timm": Builder(create_timm, _Timm),
}


def _level(name: str, deepest: int) -> int:
    first, _, rest = name.partition(".")
    if first == "blocks":
        return int(rest.partition(".")[0]) + 1
    return 0 if first in ("patch_embed", "norm_pre", *_UNDECAYED) else deepest
