"""Labels alone: the teacher's fine-tuning, the plain fine-tune of Table 4, the labels-only baseline."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.methods import Facts, Given, Moment, Needs, settings_of
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.network import classifier
from cikd_cli.models.readout import class_logits


def build(config: Any, given: Given) -> "Supervised":
    """The method of a config with `smoothing`, and `linear_probe` if it has that."""
    knobs = settings_of(config, Supervised) | {"mean": given.spec.mean, "std": given.spec.std}
    return Supervised(given.student, **knobs)


class Supervised(nn.Module):
    """Cross entropy of `student`; with `linear_probe` the trunk stays in eval mode and gets no gradient."""

    def __init__(
        self,
        student: nn.Module,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        smoothing: float,
        linear_probe: bool = False,
    ) -> None:
        super().__init__()
        self.student: Any = student
        self.teacher: FrozenTeacher | None = None
        self.needs, self.facts = Needs(), Facts()
        self.mean, self.std = mean, std
        self.smoothing = smoothing
        self.linear_probe = linear_probe
        if linear_probe:
            student.requires_grad_(False)
            for layer in classifier(student):
                layer.requires_grad_(True)

    def forward(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:  # noqa: ARG002 - the protocol's signature
        """{"ce"}: scalar."""
        images = normalise(batch.images, self.mean, self.std)
        if self.linear_probe:
            self.student.eval()
            with torch.no_grad():
                features = self.student.forward_features(images)
            logits = self.student.forward_head(features)
        else:
            logits = class_logits(self.student, images)
        return {"ce": cross_entropy(logits, batch.targets, smoothing=self.smoothing)}


def cross_entropy(logits: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
    """CE with label smoothing over all classes, float32 (docs/method.md); logits (B, C), targets (B,)."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
