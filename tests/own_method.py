"""A training method of one's own, as CONTRIBUTING tells: a class, its knobs, and a row in the table of stages.

A ResNet learns the labels, or is frozen, and a small network of timm's with batch norm and drop path of its own learns
them too and follows the ResNet's features through a learned 1 x 1 projection. `python tests/own_method.py own ...` is
`cikd own ...`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.methods import Given, Moment, Needs
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.network import create_timm, read
from cikd_cli.settings.configs import StudentConfig
from cikd_cli.settings.knob import MODELS, changed, knob
from cikd_cli.settings.stages import CLASSES, STAGES, STUDENT, Kind, Stage


class OwnConfig(StudentConfig):
    student: str = changed(StudentConfig, "student", "mobilenetv4_conv_small_035")
    guide: str = knob("resnet10t", "The ResNet.", panel=MODELS)
    frozen: bool = knob(False, "Keep the ResNet as it is.", panel=MODELS)

    @property
    def needs_teacher(self) -> bool:
        return False


class Guided(nn.Module):
    def __init__(self, given: Given, guide: nn.Module, *, frozen: bool) -> None:
        super().__init__()
        self.student, self.spec = given.student, given.spec
        self.teacher = (
            FrozenTeacher(guide, device=given.device, dtype=next(guide.parameters()).dtype) if frozen else None
        )
        self.guide = None if frozen else guide
        size = (1, 3, self.spec.image_size, self.spec.image_size)
        channels = [
            read(net.eval(), torch.zeros(size), ("hidden:2",))["hidden:2"].shape[1] for net in (self.student, guide)
        ]
        self.projection = nn.Conv2d(*channels, 1)
        self.needs, self.facts = Needs(), [("guide", "frozen" if frozen else "learns the labels too")]

    def forward(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:  # noqa: ARG002 - the seam
        images = normalise(batch.images, self.spec.mean, self.spec.std)
        points = ("hidden:2", "logits")
        seen = read(self.student, images, points)
        guide: Any = self.teacher.read(images, points) if self.teacher else read(self.guide, images, points)
        wanted = guide["hidden:2"].detach()
        projected = F.adaptive_avg_pool2d(self.projection(seen["hidden:2"]), wanted.shape[-2:])
        terms = {"ce": F.cross_entropy(seen["logits"].float(), batch.targets)}
        terms["guidance"] = F.mse_loss(projected.float(), wanted.float())
        return terms if self.teacher else terms | {"guide_ce": F.cross_entropy(guide["logits"].float(), batch.targets)}


def build(config: OwnConfig, given: Given) -> Guided:
    guide = create_timm(config.guide, num_classes=given.spec.num_classes, image_size=config.image_size)
    return Guided(given, guide, frozen=config.frozen)


STAGES["own"] = Stage(
    "own",
    Kind.TRAINING,
    "cikd_cli.stages.train",
    "own_method:OwnConfig",
    "A ResNet guides a student.",
    ("cikd own --data digits",),
    method="own_method:build",
    prefix="own",
    gives=frozenset({STUDENT, CLASSES}),
    learns="labels and a ResNet's features",
    title="guided student",
    then=("cikd eval RUN",),
)

if __name__ == "__main__":
    from cikd_cli.__main__ import main

    main()
