"""Centred kernel alignment: how alike the features of two networks are, layer by layer (eq. 18)."""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cikd_cli.errors import CikdError

LEAST_BATCH = 4  # HSIC1 divides by n - 3


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Full-batch linear CKA, biased: ||Y'X||^2 / (||X'X|| ||Y'Y||) of centred columns, in float64.

    Args:
        x: (n, p) features of n images.
        y: (n, q) features of the same images in the other network.

    Returns:
        A number in 0..1; nan where the features of a network are the same for every image.

    Raises:
        CikdError: the two do not hold the same number of images.
    """
    if len(x) != len(y):
        raise CikdError(f"CKA compares features of the same images, not of {len(x)} and {len(y)}.")
    x, y = (features.flatten(1).double() for features in (x, y))
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    if len(x) <= max(x.shape[1], y.shape[1]):  # ||Y'X||^2 = <XX', YY'>: the smaller matrices
        k, m = x @ x.T, y @ y.T
        return float((k * m).sum() / (k.norm() * m.norm()))
    return float((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


class MinibatchCKA:
    """CKA of every pair of layers from batches: unbiased HSIC1 in float64, averaged over batches, divided last.

    Batches may differ in size, as the last one does; each counts the same.
    """

    def __init__(self) -> None:
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None

    def update(self, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> None:
        """Add one batch.

        Args:
            xs: One tensor (n, ...) per layer of the first network, all of the same n > 3 images; widths may differ.
            ys: The same for the second network.

        Raises:
            CikdError: n is 3 or less, or differs between layers.
        """
        sizes = {len(features) for features in (*xs, *ys)}
        if len(sizes) != 1:
            listed = " and ".join(map(str, sorted(sizes)))
            raise CikdError(f"CKA compares features of the same images in every layer, not of {listed}.")
        (n,) = sizes
        if n < LEAST_BATCH:
            raise CikdError(
                f"The unbiased CKA estimate needs at least {LEAST_BATCH} images in a batch, not {n}.",
                hint="--batch-size 128",
            )
        k = torch.stack([_gram(x) for x in xs])
        m = torch.stack([_gram(y) for y in ys]).to(k.device)
        new = (_hsic(k, m), _hsic(k, k).diagonal(), _hsic(m, m).diagonal())
        if self._sums is None:
            self._sums = new
        else:
            a, b, c = self._sums
            self._sums = (a + new[0], b + new[1], c + new[2])

    def compute(self) -> Tensor:
        """The similarities so far, (len(xs), len(ys)) float64; nan where a layer's features never differ.

        Raises:
            CikdError: no batch was added.
        """
        if self._sums is None:
            raise CikdError("There is no batch to compute CKA from.")
        cross, own_x, own_y = self._sums  # sums over batches; the counts cancel
        return cross / (own_x[:, None] * own_y[None, :]).sqrt()


@torch.inference_mode()
def layer_features(vit: VisionTransformer, images: Tensor) -> list[Tensor]:
    """Features at the depth + 1 points of figure 5: LN1 output of blocks 1..depth, then the final LN output.

    A network that pools before its final norm (timm `global_pool="avg"`) has no such norm over tokens; its last point
    is the last block's output.

    Args:
        vit: A stock timm ViT; put into evaluation mode.
        images: (B, 3, H, W), normalised.

    Returns:
        depth + 1 tensors (B, patches * width); the prefix tokens are left out.
    """
    vit.eval()
    points = [*(f"blocks.{index}.norm1" for index in range(len(vit.blocks))), "norm"]
    features: dict[int, Tensor] = {}

    def keep(_module: nn.Module, _inputs: object, output: Tensor, *, index: int) -> None:
        features[index] = output[:, vit.num_prefix_tokens :].flatten(1)

    hooks = [
        vit.get_submodule(point).register_forward_hook(partial(keep, index=index)) for index, point in enumerate(points)
    ]
    try:
        vit.forward_features(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [features[index] for index in range(len(points))]


def compare(
    student: VisionTransformer, teacher: VisionTransformer, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, int]:
    """CKA between all layers of two networks; a last batch of fewer than 4 images is left out.

    Args:
        student: The network of the rows.
        teacher: The network of the columns; another width, depth, patch or image size is fine.
        batches: (student's images, teacher's images): the same pictures, each sized and normalised for its network.

    Returns:
        (student depth + 1, teacher depth + 1) float64 on the CPU, and the number of images used.
    """
    estimate, images = MinibatchCKA(), 0
    for student_images, teacher_images in batches:
        if images and len(student_images) < LEAST_BATCH:
            continue
        estimate.update(layer_features(student, student_images), layer_features(teacher, teacher_images))
        images += len(student_images)
    return estimate.compute().cpu(), images


def usable_images(images: int, batch_size: int) -> int:
    """How many of so many images `compare` uses: all, but for a last batch of fewer than 4."""
    rest = images % batch_size
    return images - rest if rest < LEAST_BATCH else images


def matched_layers(rows: int, columns: int) -> list[int]:
    """The column each row is matched with, by relative depth; 0, 1, 2, ... for networks of the same depth.

    First goes with first and last with last, as the shallow and the final layer play the same part at any depth.
    """
    return [round(row * (columns - 1) / max(1, rows - 1)) for row in range(rows)]


def diagonal(matrix: Tensor) -> list[float]:
    """The similarity of each row's layer with the layer it is matched with: the curve under the heatmap."""
    return [float(matrix[row, column]) for row, column in enumerate(matched_layers(*matrix.shape))]


def _gram(features: Tensor) -> Tensor:
    """X X' of features (n, ...) in float64 with a zero diagonal; HSIC1 is the same with or without the batch mean."""
    x = features.flatten(1).double()
    x = x - x.mean(dim=0)
    return (x @ x.T).fill_diagonal_(0)


def _hsic(k: Tensor, m: Tensor) -> Tensor:
    """HSIC1 (Song et al. 2012, eq. 5) of Gram matrices (a, n, n) and (b, n, n) with zero diagonals -> (a, b)."""
    n = k.shape[-1]
    rows_k, rows_m = k.sum(dim=-1), m.sum(dim=-1)
    both = torch.einsum("aij,bij->ab", k, m)
    sums = rows_k.sum(dim=-1)[:, None] * rows_m.sum(dim=-1)[None, :] / ((n - 1) * (n - 2))
    crossed = 2 / (n - 2) * rows_k @ rows_m.T  # 1'KL1
    return (both + sums - crossed) / (n * (n - 3))
