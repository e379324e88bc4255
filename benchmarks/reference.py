"""The authors' training steps, re-stated from the equations: what `cikd bench` measures the program against.

It does what the released code does, no slower: teacher and student stop inside the last tapped block; block 1 makes its
q, k and v once for the tap and once more for itself; attention and relation maps are whole tensors, through softmax,
log and KL; one autocast for everything; three numbers are read back a step; views are made by Pillow, one image at a
time, and collated as floats. The LM teacher is timm's network with its fused attention. Nothing of the program is used
here: torch, torchvision, and networks built by timm. Autocast keeps softmax and log in float32 on a GPU; on a CPU bf16
stays bf16, and the maps are half as large.

Terms: docs/method.md. Networks read a class token, without register or distillation tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import default_collate
from torchvision import transforms

Relations = tuple[Tensor, Tensor, Tensor]  # q, k, v of one block, each (B, heads, tokens, head_dim)


def as_released(student: VisionTransformer, teacher: VisionTransformer, *, stage: str, drop_path: float) -> None:
    """Make timm's networks those of the released code, in place.

    Attention maps are materialised in the student and in the teacher of stage "ali"; the student's middle blocks drop
    paths by timm's own module.
    """
    _materialise_maps(student)
    if stage == "ali":
        _materialise_maps(teacher)
    teacher.eval().requires_grad_(False)
    for block in list(student.blocks)[1:-1]:
        block.drop_path1, block.drop_path2 = (DropPath(drop_path) if drop_path else nn.Identity() for _ in range(2))


def ali_terms(
    student: VisionTransformer, teacher: VisionTransformer, images: Tensor, teacher_images: Tensor, *, lob: int
) -> tuple[Tensor, Tensor]:
    """L_first and L_last (eq. 5), whose sum is L_ALI; images: normalised floats (B, 3, H, W), block `lob` from 1."""
    with torch.no_grad():
        teacher_first, teacher_last = relations(teacher, teacher_images, last=lob)
    student_first, student_last = relations(student, images, last=len(student.blocks))
    return block_loss(teacher_first, student_first), block_loss(teacher_last, student_last)


def lm_terms(
    student: VisionTransformer, teacher: VisionTransformer, images: Tensor, targets: Tensor, *, smoothing: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Cross entropy and L_LM (eq. 14, alpha = 4, T = 1, full weight); images (B, 3, H, W), targets (B,)."""
    with torch.no_grad():
        teacher_logits = teacher(images)
    logits = student(images)
    return (
        F.cross_entropy(logits, targets, label_smoothing=smoothing),
        decoupled_kd(logits.float(), teacher_logits.float(), targets),
    )


def relations(vit: VisionTransformer, images: Tensor, *, last: int) -> tuple[Relations, Relations]:
    """q, k, v of block 1 and of block `last`, which is not run further than these."""
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    first = _query_key_value(vit.blocks[0], x)
    for block in vit.blocks[: last - 1]:
        x = block(x)
    return first, first if last == 1 else _query_key_value(vit.blocks[last - 1], x)


def block_loss(teacher: Relations, student: Relations) -> Tensor:
    """KL of the QK maps plus KL of the VV maps of one pair of blocks (eq. 5)."""
    query_key = _kl(_map(teacher[0], teacher[1]), _map(student[0], student[1]))
    value_value = _kl(_map(teacher[2], teacher[2]), _map(student[2], student[2]))
    return query_key + value_value


def decoupled_kd(student: Tensor, teacher: Tensor, targets: Tensor, *, alpha: float = 4.0) -> Tensor:
    """TCKD + alpha x NCKD at T = 1 (docs/method.md), the target taken out by subtracting 1000; logits (B, C)."""
    target = F.one_hot(targets, student.shape[1]).to(student.dtype)
    binary_student, binary_teacher = (
        torch.stack([(p * target).sum(1), (p * (1 - target)).sum(1)], dim=1)
        for p in (student.softmax(1), teacher.softmax(1))
    )
    tckd = F.kl_div(binary_student.log(), binary_teacher, reduction="batchmean")
    others_student = F.log_softmax(student - 1000 * target, dim=1)
    others_teacher = F.softmax(teacher - 1000 * target, dim=1)
    return tckd + alpha * F.kl_div(others_student, others_teacher, reduction="batchmean")


class Step:
    """One training step: autocast, backward, AdamW, and three numbers read back.

    terms: the two terms of the loss, from what the step is called with. groups: AdamW's, each with its `lr_scale`.
    dtype: of autocast; torch.float32 for none. fp16 scales the loss.
    """

    def __init__(
        self,
        terms: Callable[..., tuple[Tensor, Tensor]],
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.terms = terms
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=1e-8)
        self.scaler = torch.amp.GradScaler(enabled=dtype == torch.float16)
        self.dtype, self.device = dtype, device

    def __call__(self, *inputs: Tensor, lr: float) -> list[float]:
        """The loss and its two terms."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            first, second = self.terms(*inputs)
            loss = first + second
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return [loss.item(), first.item(), second.item()]


class AliViews:
    """Spec 1.5: one crop and flip, jitter on the student's view only; both as normalised floats."""

    def __init__(self, size: int) -> None:
        bicubic = transforms.InterpolationMode.BICUBIC
        crop = transforms.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=bicubic)
        self.common = transforms.Compose([crop, transforms.RandomHorizontalFlip()])
        self.jitter = transforms.ColorJitter(0.4, 0.4, 0.4)

    def __call__(self, pixels: np.ndarray) -> tuple[Tensor, Tensor]:
        """(3, size, size) of the student and of the teacher, from (H, W, 3) bytes."""
        image = self.common(Image.fromarray(pixels))
        return _FLOATS(self.jitter(image)), _FLOATS(image)


class LmViews:
    """Spec 1.8, stage 2: crop, TrivialAugmentWide, flip, as normalised floats."""

    def __init__(self, size: int) -> None:
        self.view = transforms.Compose([
            transforms.RandomResizedCrop(size, scale=(0.08, 1.0)),
            transforms.TrivialAugmentWide(),
            transforms.RandomHorizontalFlip(),
            _FLOATS,
        ])  # fmt: skip

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """(3, size, size), from (H, W, 3) bytes."""
        return self.view(Image.fromarray(pixels))


def collate(view: Callable[[np.ndarray], Any], images: Sequence[np.ndarray]) -> Any:
    """A batch of float views, as torch's own loader makes it."""
    return default_collate([view(pixels) for pixels in images])


_FLOATS = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])


def _materialise_maps(vit: VisionTransformer) -> None:
    for block in vit.blocks:
        block.attn.fused_attn = False


def _query_key_value(block: nn.Module, x: Tensor) -> Relations:
    attn = block.attn
    batch, tokens, _ = x.shape
    qkv = attn.qkv(block.norm1(x)).reshape(batch, tokens, 3, attn.num_heads, attn.head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return attn.q_norm(q), attn.k_norm(k), v


def _map(a: Tensor, b: Tensor) -> Tensor:
    """softmax(a b' / sqrt(d)), (B, heads, tokens, tokens) (eq. 2, 3)."""
    return ((a * a.shape[-1] ** -0.5) @ b.transpose(-2, -1)).softmax(dim=-1)


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Eq. 4: sum over keys; mean over images, heads and queries."""
    return F.kl_div(student.log(), teacher, reduction="none").sum(dim=-1).mean()
