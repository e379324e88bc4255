"""Mean attention distance: how far, in pixels, each head of each block looks (eq. 19)."""

from collections.abc import Iterable

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cikd_cli.errors import CikdError
from cikd_cli.models.taps import tap_qkv


def mean_attention_distance(
    logits: Tensor,
    *,
    grid: tuple[int, int],
    patch_size: int | tuple[int, int],
    prefix_tokens: int = 1,
    keep_softmax_mass: bool = False,
) -> Tensor:
    """Distance between a query patch and the patches it attends to, weighted by the attention (eq. 19).

    The prefix tokens' rows and columns go first and the softmax runs over what is left, in float32. Uniform attention
    on 14 x 14 patches of 16 pixels gives 116.49.

    Args:
        logits: (B, K, N, N) scaled scores q k' / sqrt(d) *before* the softmax, prefix tokens first, patches row-major.
        grid: Rows and columns of patches; their product and the prefix tokens make N.
        patch_size: Side of a patch in pixels, or (height, width).
        prefix_tokens: Class, distillation and register tokens in front of the patches.
        keep_softmax_mass: Softmax over all N keys and drop the prefix afterwards without renormalising: another,
            smaller number.

    Returns:
        (K,) float32, pixels; the mean over images and query patches.

    Raises:
        CikdError: N is not rows * columns + prefix_tokens.
    """
    tokens = grid[0] * grid[1] + prefix_tokens
    if logits.ndim != 4 or logits.shape[-2:] != (tokens, tokens):
        raise CikdError(
            f"Attention logits of shape {tuple(logits.shape)} do not fit {grid[0]} x {grid[1]} patches"
            f" after {prefix_tokens} prefix tokens."
        )
    queries = logits[..., prefix_tokens:, :].float()
    if keep_softmax_mass:
        attention = queries.softmax(dim=-1)[..., prefix_tokens:]
    else:
        attention = queries[..., prefix_tokens:].softmax(dim=-1)
    distances = _patch_distances(grid, patch_size).to(attention)
    return (attention * distances).sum(dim=-1).mean(dim=(0, 2))


@torch.inference_mode()
def attention_distances(vit: VisionTransformer, batches: Iterable[Tensor]) -> list[Tensor]:
    """Mean attention distance of every head of every block; each image weighs the same, whatever its batch.

    Args:
        vit: A stock timm ViT; blocks may differ in their number of heads. It is put into evaluation mode.
        batches: Normalised images (B, 3, H, W) on the network's device.

    Returns:
        One float32 tensor (heads,) per block, in pixels, on the CPU.

    Raises:
        CikdError: there is no image.
    """
    vit.eval()
    blocks = range(1, len(vit.blocks) + 1)
    patch = vit.patch_embed.patch_size
    sums: dict[int, Tensor] = {}
    images_seen = 0
    for images in batches:
        grid = (images.shape[-2] // patch[0], images.shape[-1] // patch[1])
        for block, (q, k, _) in tap_qkv(vit, images, list(blocks)).items():
            logits = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-2, -1)
            means = mean_attention_distance(
                logits, grid=grid, patch_size=patch, prefix_tokens=vit.num_prefix_tokens
            ).double()
            sums[block] = sums.get(block, torch.zeros_like(means)) + means * len(images)
        images_seen += len(images)
    if not images_seen:
        raise CikdError("There is no image to measure attention distances on.")
    return [(sums[block] / images_seen).float().cpu() for block in blocks]


def uniform_distance(grid: tuple[int, int], patch_size: int | tuple[int, int]) -> float:
    """The attention distance of a head that looks everywhere alike, in pixels: 116.49 for 14 x 14 patches of 16."""
    return float(_patch_distances(grid, patch_size).double().mean())


def _patch_distances(grid: tuple[int, int], patch_size: int | tuple[int, int]) -> Tensor:
    """Euclidean distances between patch centres, (P, P) float32 in pixels, patches row-major."""
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = torch.stack((rows.flatten() * height, columns.flatten() * width), dim=-1).float()
    differences = places[:, None] - places[None, :]
    return differences.square().sum(dim=-1).sqrt()
