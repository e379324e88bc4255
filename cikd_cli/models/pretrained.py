"""Pretrained networks by what a person types: a weights file, a folder, `hf-hub:`, `local-dir:`, or timm's name."""

from dataclasses import dataclass
from pathlib import Path

import timm
from timm.models.vision_transformer import VisionTransformer

from cikd_cli.errors import CikdError
from cikd_cli.models import teachers
from cikd_cli.models.checkpoints import open_checkpoint
from cikd_cli.models.descriptions import CONFIG, PREPROCESSOR, Description, check_heads_of, read_description
from cikd_cli.models.foreign import architecture_of, fit
from cikd_cli.models.formats import is_safetensors
from cikd_cli.models.hub import WEIGHTS, Repository, remedy
from cikd_cli.models.places import Place, find_place, weights_in
from cikd_cli.models.spec import Triple
from cikd_cli.models.weights import pretraining_statistics, read_spec
from cikd_cli.settings.patches import check_patch


@dataclass(frozen=True)
class Pretrained:
    """A network with weights from elsewhere; origin: where they are from, and what had to be done, in words."""

    model: VisionTransformer
    architecture: str
    mean: Triple
    std: Triple
    origin: str


def own_file(name: str) -> Path | None:
    """The file of these words if `cikd` wrote it, and so says itself what it is."""
    place = find_place(name)
    path = place.path if place.kind == "file" else weights_in(place.path) if place.kind == "folder" else None
    return path if path is not None and is_safetensors(path) and read_spec(path) is not None else None


def is_pretrained_name(name: str) -> bool:
    """Whether words that are no path on this disk name a network elsewhere, and not a run that is missing."""
    return name.startswith("timm/") or ":" in name or timm.is_model(name.split(".")[0])


def open_pretrained(
    name: str, *, num_classes: int, image_size: int | None, architecture: str | None = None
) -> Pretrained:
    """The network of these words, with a fresh classifier.

    image_size: none: the one it was pretrained at. architecture: timm's name, for a file that does not say it.

    Raises:
        CikdError: nothing there, weights that cannot be had or are another network's, or an image size that its
            patches do not tile.
    """
    place = find_place(name)
    ours = place.text.removeprefix("timm/")
    known = place.kind == "hub" and ours != place.text and "@" not in ours and timm.is_model(ours.split(".")[0])
    if place.kind == "timm" or known:
        return _from_timm(ours, place, num_classes, image_size)
    if place.kind == "hub":
        return _from_hub(place.text, num_classes, image_size, architecture)
    path = place.path if place.kind == "file" else weights_in(place.path)
    beside = path.parent / CONFIG
    described = None
    if beside.is_file() and (place.kind == "folder" or path.name in WEIGHTS):
        preprocessor = beside.with_name(PREPROCESSOR)
        described = read_description(beside, preprocessor if preprocessor.is_file() else None)
    return _from_file(path, described, str(path), num_classes, image_size, architecture)


def own_size(architecture: str) -> int:
    """The image side that timm's weights of this name were pretrained at, in pixels."""
    config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    return int(config.input_size[-1]) if config else 224


def _from_file(
    path: Path, described: Description | None, origin: str, num_classes: int, image_size: int | None, named: str | None
) -> Pretrained:
    checkpoint = open_checkpoint(path)
    architecture = architecture_of(path, named or (described.architecture if described else None), checkpoint)
    size = image_size or own_size(architecture)
    model, notes = fit(checkpoint, path, architecture, num_classes=num_classes, image_size=size)
    mean, std = pretraining_statistics(architecture)
    if described is not None:
        check_heads_of(model, described, path, architecture)
        if described.mean is None or described.std is None:
            notes.append(f"normalised as timm's {architecture}, for no {PREPROCESSOR} says how")
        else:
            mean, std = described.mean, described.std
    return Pretrained(model, architecture, mean, std, "; ".join([f"pretrained weights {origin}", *notes]))


def _from_timm(name: str, place: Place, num_classes: int, image_size: int | None) -> Pretrained:
    teachers.outline(name)  # before its size is looked up
    size = image_size or own_size(name)
    model = teachers.create_teacher(name, num_classes=num_classes, image_size=size, pretrained=True)
    origin = "from timm" if place.kind == "timm" else f"hf-hub:{place.text}"
    return Pretrained(model, name, *pretraining_statistics(name), f"pretrained weights {origin}")


def _from_hub(name: str, num_classes: int, image_size: int | None, named: str | None) -> Pretrained:
    then = "put them into a folder and give that: --teacher FOLDER"
    told = remedy(name, "its config.json and model.safetensors", then)
    repository = Repository(name, remedy=f"{told}; a small teacher: {teachers.SMALL} (23 MB)")
    config = repository.file(CONFIG)
    described = read_description(config) if config is not None else None
    if config is not None and described is not None and described.mean is None:
        described = read_description(config, repository.held(PREPROCESSOR))
    architecture = named or (described.architecture if described else None)
    if image_size is not None and architecture is not None:  # before a long download
        check_patch(image_size, teachers.outline(architecture).patch_embed.patch_size[0])
    path = repository.file(*WEIGHTS)
    if path is None:
        raise CikdError(f"The repository {name} holds no PyTorch weights of the usual names.", hint=teachers.A_TEACHER)
    return _from_file(path, described, f"hf-hub:{name}", num_classes, image_size, named)
