"""Are weights said to be pretrained really so? Nearest neighbours of a few images answer before any training."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cikd_cli.data.splits import Split
from cikd_cli.data.views import evaluation_view, normalise
from cikd_cli.models.spec import ModelSpec

CLASSES, PER_CLASS, BATCH = 10, 12, 24


@dataclass(frozen=True)
class NeighbourTest:
    """Percent of images whose nearest other image, by cosine of the class token, has the same label."""

    images: int
    loaded: float
    untrained: float


def neighbour_test(model: VisionTransformer, split: Split, spec: ModelSpec, *, device: torch.device) -> NeighbourTest:
    """Compare a network with the same architecture at random weights on up to 120 training images."""
    chosen = np.concatenate(
        [np.flatnonzero(split.labels == label)[:PER_CLASS] for label in np.unique(split.labels)[:CLASSES]]
    )
    views = np.stack([evaluation_view(split.image(int(index)), spec.image_size) for index in chosen])
    images = torch.from_numpy(views).permute(0, 3, 1, 2)
    labels = torch.from_numpy(split.labels[chosen])
    scores = [
        _neighbour_accuracy(_features(network, images, spec, device), labels) for network in (model, spec.build())
    ]
    return NeighbourTest(len(chosen), *scores)


@torch.no_grad()
def _features(model: VisionTransformer, images: Tensor, spec: ModelSpec, device: torch.device) -> Tensor:
    model = model.eval().to(device)
    batches = [normalise(part.to(device), spec.mean, spec.std) for part in torch.split(images, BATCH)]
    return torch.cat([model.forward_head(model.forward_features(part), pre_logits=True).cpu() for part in batches])


def _neighbour_accuracy(features: Tensor, labels: Tensor) -> float:
    unit = F.normalize(features, dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-2.0)
    return 100.0 * (labels[similarity.argmax(dim=1)] == labels).double().mean().item()
