"""The student, as timm's own VisionTransformer: heads by block, fixed positions, constant drop path: docs/method.md."""

import math
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cikd_cli.errors import CikdError
from cikd_cli.models.drop_path import StochasticDepth
from cikd_cli.settings.patches import check_patch


@dataclass(frozen=True)
class Size:
    """Width, depth and the heads of the middle blocks of a student."""

    width: int
    depth: int
    heads: int


CUSTOM = "custom"
STUDENTS = {  # docs/method.md; vit_pico is ours, for sets of about a thousand images
    "vit_tiny": Size(192, 12, 6),
    "vit_small": Size(384, 12, 6),
    "vit_pico": Size(96, 12, 6),
}


def create_student(
    name: str = "vit_tiny",
    *,
    num_classes: int,
    image_size: int = 224,
    patch_size: int = 16,
    end_heads: int = 12,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    drop_path: float = 0.1,
) -> VisionTransformer:
    """A student with `end_heads` heads (the teacher's) in its first and last block, initialised as in docs/method.md.

    name: a key of STUDENTS, or "custom" with `width`, `depth` and `heads` (of the middle blocks).
    num_classes: 0 for no classifier.
    Raises CikdError for an unknown name, heads that do not divide the width, or a patch that does not tile the image.
    """
    size = _student_size(name, width, depth, heads)
    head_counts = [size.heads] * size.depth
    head_counts[0] = head_counts[-1] = end_heads
    check_heads(size.width, head_counts)
    check_patch(image_size, patch_size)
    student = VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=1,
        norm_layer=_layer_norm,
        weight_init="skip",
    )
    set_heads(student, head_counts)
    _initialise(student)
    if drop_path > 0:
        for block in list(student.blocks)[1:-1]:  # constant, and none on the first and last block
            block.drop_path1, block.drop_path2 = StochasticDepth(drop_path), StochasticDepth(drop_path)
    return student


def sincos_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed 2-D sin-cos table, (1 + rows * cols, width) float32, class row zero (docs/method.md).

    The first half of the channels encodes the column, the second the row; within each half sines come before cosines.
    """
    rows, cols = grid
    quarter = width // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    angles = [axis.reshape(-1, 1).double() * frequency for axis in (col, row)]
    table = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([torch.zeros(1, 4 * quarter, dtype=torch.float64), table]).float()


def set_heads(vit: VisionTransformer, counts: list[int]) -> None:
    """Give each block its number of heads: number, width and scale, which timm keeps apart (docs/method.md)."""
    for block, heads in zip(vit.blocks, counts, strict=True):
        head_dim = vit.embed_dim // heads
        block.attn.num_heads, block.attn.head_dim, block.attn.scale = heads, head_dim, head_dim**-0.5


def check_heads(width: int, counts: list[int]) -> None:
    """Refuse head counts that do not divide the width."""
    for heads in counts:
        if width % heads:
            raise CikdError(
                f"{heads} heads do not divide a width of {width}.",
                hint=f"take another number of heads, or a width that is a multiple of {math.lcm(heads, 4)}",
            )


def _layer_norm(width: int, **kwargs: object) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, **kwargs)  # type: ignore[arg-type]


def _student_size(name: str, width: int | None, depth: int | None, heads: int | None) -> Size:
    if name != CUSTOM:
        if name not in STUDENTS:
            (near,) = get_close_matches(name, STUDENTS, n=1, cutoff=0.0)
            raise CikdError(f"There is no student named {name}.", hint=f"--student {near}")
        return STUDENTS[name]
    if width is None or depth is None or heads is None:
        raise CikdError(
            "A custom student needs its width, depth and heads.",
            hint="--set student_width=96 --set student_depth=12 --set student_heads=6",
        )
    if width % 4:
        raise CikdError(
            f"The student width {width} is not a multiple of 4, which sin-cos positions need.",
            hint=f"--set student_width={width // 4 * 4 + 4}",
        )
    return Size(width, depth, heads)


@torch.no_grad()
def _initialise(student: VisionTransformer) -> None:
    for module in student.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    projection = student.patch_embed.proj
    nn.init.xavier_uniform_(projection.weight.view(student.embed_dim, -1))
    nn.init.zeros_(projection.bias)
    nn.init.normal_(student.cls_token, std=0.02)
    student.pos_embed.copy_(sincos_positions(student.patch_embed.grid_size, student.embed_dim))
    student.pos_embed.requires_grad_(False)
