"""Weights files from elsewhere: timm's, DINO's, MAE's and others', which do not say what network they are for."""

import zipfile
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from cikd_cli.errors import CikdError
from cikd_cli.models import teachers
from cikd_cli.models.weights import check_fit, read_tensors


def load_foreign(path: Path, architecture: str, *, num_classes: int, image_size: int) -> VisionTransformer:
    """A timm network with the weights of a file from elsewhere.

    Only the classifier may be missing. Wrapper prefixes go, position embeddings are resampled. A .pth file is read with
    weights_only=True: code in it never runs.
    """
    tensors = {key: value for key, value in _unwrap(_read(path)).items() if not key.startswith("head")}
    model = teachers.create_teacher(architecture, num_classes=num_classes, image_size=image_size)
    try:
        adapted = checkpoint_filter_fn(tensors, model)
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise CikdError(f"The weights in {path} do not fit a {architecture} ({error}).") from error
    expected = model.state_dict()
    check_fit(expected, adapted, path, may_miss=("head.", "head_dist.", "fc_norm."))
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
        hint="call the file by timm's name for it, such as vit_base_patch16_224.pth; cikd finetune-teacher also takes "
        "--teacher-arch",
    )


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return dict(read_tensors(path))
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
