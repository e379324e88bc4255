"""Weights files from elsewhere: timm's, DINO's, MAE's and others', which do not say what network they are for."""

from pathlib import Path

import timm
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from cikd_cli.errors import CikdError
from cikd_cli.models import teachers
from cikd_cli.models.checkpoints import Checkpoint
from cikd_cli.models.names import norm_after_pooling, to_timm
from cikd_cli.models.shapes import Shape, differences, kind_of, names_of
from cikd_cli.models.weights import check_fit
from cikd_cli.settings.patches import check_patch

_HEADS = ("head.", "head_dist.")  # made anew for the images' classes
# What makes up a trunk: nothing of it may be without a place. Other tensors are left out, and said.
_TRUNK = (
    *("blocks.", "patch_embed.", "pos_embed", "cls_token", "reg_token", "dist_token", "norm", "ls"),
    *("embeddings.", "encoder.", "layers.", "rel_pos", "rope"),
)


def fit(
    checkpoint: Checkpoint, path: Path, architecture: str, *, num_classes: int, image_size: int
) -> tuple[VisionTransformer, list[str]]:
    """A timm network with weights from elsewhere, and what to say: which of several it is, and what was left out.

    Only the classifier may be missing. Wrappers go, names of other programs are read, position embeddings are
    resampled. Raises CikdError for weights of another network, naming it, and for an image size that the patches do
    not tile.
    """
    outline = teachers.outline(architecture)
    expected = outline.state_dict()
    check_patch(image_size, outline.patch_embed.patch_size[0])
    tensors = {name: tensor for name, tensor in to_timm(checkpoint.tensors).items() if not name.startswith(_HEADS)}
    notes = [checkpoint.taken] if checkpoint.taken else []
    if norm_after_pooling(tensors, expected):
        notes.append("mean-pooled: the norm after its pooling is taken for the class token")
    _refuse_other_networks(tensors, expected, path, architecture, is_vit=checkpoint.is_vit)
    model = teachers.create_teacher(architecture, num_classes=num_classes, image_size=image_size)
    try:
        adapted = checkpoint_filter_fn(tensors, model, adapt_layer_scale=True)
    except (RuntimeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise CikdError(f"The weights in {path} do not fit a {architecture} ({error}).") from error
    check_fit(model.state_dict(), adapted, path, may_miss=(*_HEADS, "fc_norm."), trunk=_TRUNK)
    placed = {name: tensor for name, tensor in adapted.items() if name in model.state_dict()}
    if any(name.startswith("fc_norm.") and name not in placed for name in expected):
        notes.append("the norm after its pooling starts anew")
    left_out = dict.fromkeys(name.split(".")[0] for name in adapted if name not in placed)
    model.load_state_dict(placed, strict=False)
    return model, [*notes, *([f"left out: {', '.join(left_out)}"] if left_out else [])]


def architecture_of(path: Path, named: str | None, checkpoint: Checkpoint | None = None) -> str:
    """The timm architecture of a file: as named by the user, else the file's own name when timm knows it, else as the
    checkpoint records it.
    """
    if named:
        return named
    base = path.stem.split(".")[0]
    if timm.is_model(base):
        return path.stem if timm.is_model_pretrained(path.stem) else base  # .mine is no tag of timm's
    if checkpoint is not None and checkpoint.architecture:
        return checkpoint.architecture
    hint = "call the file by timm's name for it, such as vit_base_patch16_224.pth"
    if checkpoint is not None:
        tensors = to_timm(checkpoint.tensors)
        _refuse_other_kinds(tensors, path, is_vit=checkpoint.is_vit)
        shape = Shape.of(tensors)
        names = names_of(shape) if shape else []
        if shape and names:
            hint = f"it has the shape of {' or '.join(names)} ({shape.describe()}); call it by that name if it is one"
    hint += "; cikd finetune-teacher also takes --teacher-arch"
    raise CikdError(
        f"{path} does not say which architecture it holds, and head counts cannot be read off the weights.", hint=hint
    )


def _refuse_other_kinds(tensors: dict[str, Tensor], path: Path, *, is_vit: bool) -> None:
    """Raise CikdError for a network that is known to be no plain ViT."""
    trunk = [name for name in tensors if name.startswith(_TRUNK)] if is_vit else list(tensors)
    kind = kind_of(trunk)
    if kind is not None:
        raise CikdError(
            f"{path} does not fit: it holds {kind}; a teacher is a plain ViT.",
            hint="merge it into its network first (PEFT: merge_and_unload), and save that"
            if "LoRA" in kind
            else teachers.A_TEACHER,
        )


def _refuse_other_networks(
    tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path, architecture: str, *, is_vit: bool
) -> None:
    """Raise CikdError for tensors whose shapes or names are another network's."""
    found, wanted = Shape.of(tensors), Shape.of(expected)
    if found == wanted and found is not None:
        return
    _refuse_other_kinds(tensors, path, is_vit=is_vit)
    if found is None or wanted is None:
        some = ", ".join(list(tensors)[:3])
        raise CikdError(
            f"{path} does not fit: it holds no ViT whose names we know, so that all {len(expected)} tensors are missing"
            f"{f' (it has {some})' if some else ''}.",
            hint="save timm's, DINO's, MAE's or Hugging Face's state dict, as .safetensors or with torch.save(…)",
        )
    names = names_of(found)
    raise CikdError(
        f"{path} does not fit a {architecture}: it has {', '.join(differences(found, wanted))}.",
        hint=f"--teacher-arch {' or '.join(names)}"
        if names
        else f"timm has no plain ViT of its shape ({found.describe()})",
    )
