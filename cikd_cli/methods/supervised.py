"""Labels alone: the teacher's fine-tuning, the plain fine-tune of Table 4, the labels-only baseline."""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.models.readout import class_logits


class Supervised(nn.Module):
    """Cross entropy of `model`; with `linear_probe` the trunk stays in eval mode and gets no gradient."""

    def __init__(
        self,
        model: VisionTransformer,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        smoothing: float,
        linear_probe: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = mean, std
        self.smoothing = smoothing
        self.linear_probe = linear_probe
        if linear_probe:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.startswith("head"))  # a distilled DeiT has two

    def forward(self, batch: Batch, epoch: int) -> dict[str, Tensor]:  # noqa: ARG002 - the protocol's signature
        """{"ce"}: scalar."""
        images = normalise(batch.images, self.mean, self.std)
        if self.linear_probe:
            self.model.eval()
            with torch.no_grad():
                features = self.model.forward_features(images)
            logits = self.model.forward_head(features)
        else:
            logits = class_logits(self.model, images)
        return {"ce": cross_entropy(logits, batch.targets, smoothing=self.smoothing)}


def cross_entropy(logits: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
    """CE with label smoothing over all classes, float32 (docs/method.md); logits (B, C), targets (B,)."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
