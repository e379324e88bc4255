"""The networks and methods of one size of the problem, with random weights."""

import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cikd_cli.bench.config import Stage
from cikd_cli.bench.reference import load_reference
from cikd_cli.engine.precision import DTYPES
from cikd_cli.errors import CikdError
from cikd_cli.methods.ali import Ali
from cikd_cli.methods.lm import LogitMimicking
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.teachers import create_scratch_teacher, create_teacher
from cikd_cli.models.vit import create_student, head_counts
from cikd_cli.models.weights import HALF
from cikd_cli.settings.configs import AliConfig, FinetuneTeacherConfig, LmConfig


@dataclass(frozen=True)
class Case:
    """One size of the problem: what the two stages and the teacher would be told, and the number of classes.

    ali, lm: share image size, student and drop path; ali.lob is a number. source_size: side of the images that views
    are made from, in pixels.
    """

    ali: AliConfig
    lm: LmConfig
    teacher: FinetuneTeacherConfig
    num_classes: int = 100
    source_size: int = 32

    @property
    def lob(self) -> int:
        """The teacher's learning objective block, from 1."""
        return int(self.ali.lob)

    def stage(self, stage: Stage) -> AliConfig | LmConfig:
        """What a stage would be told."""
        return self.ali if stage == "ali" else self.lm

    def but(self, **values: Any) -> "Case":
        """The case with other settings of both stages, such as `batch_size`, `image_size` or `lob`."""
        shared = {key: value for key, value in values.items() if key != "lob"}
        return replace(self, ali=self.ali.model_copy(update=values), lm=self.lm.model_copy(update=shared))


class KnownLogits:
    """In place of a FrozenTeacher: logits for one batch, (B, C) float32, where a step is counted with a full cache."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def logits(self, images: Tensor) -> Tensor:
        """The first rows, one an image; images: (B, 3, H, W)."""
        return self._logits[: len(images)]


def build_method(
    case: Case, stage: Stage, *, device: torch.device, precision: str, logits: Tensor | None = None
) -> Ali | LogitMimicking:
    """What `cikd ali` or `cikd lm` would train, with the paper's weights of the terms.

    logits: (B, C) of a batch, in place of the lm teacher.
    """
    student = build_student(case, stage)
    if logits is not None:
        known: Any = KnownLogits(logits)
        return LogitMimicking(student, known, mean=HALF, std=HALF, smoothing=case.lm.smoothing)
    teacher = FrozenTeacher(build_teacher(case), device=device, dtype=DTYPES[precision])
    if stage == "ali":
        return Ali(student, teacher, pairs=((1, 1), (case.lob, len(student.blocks))), mean=HALF, std=HALF)
    return LogitMimicking(student, teacher, mean=HALF, std=HALF, smoothing=case.lm.smoothing)


def build_rival(case: Case, stage: Stage) -> tuple[VisionTransformer, VisionTransformer]:
    """Student and teacher with the same weights, as the reference runs them."""
    student, teacher = build_student(case, stage), build_teacher(case)
    load_reference().as_released(student, teacher, stage=stage, drop_path=case.ali.drop_path)
    return student, teacher


def build_teacher(case: Case) -> VisionTransformer:
    """The teacher's network at the stages' image size.

    Raises:
        CikdError: no timm name, or tokens that the reference does not know.
    """
    return copy.deepcopy(_teacher(case.teacher, case.num_classes, case.ali.image_size))


def build_student(case: Case, stage: Stage) -> VisionTransformer:
    """The student made for the teacher; in "ali" it has no classifier."""
    config, teacher = case.ali, _teacher(case.teacher, case.num_classes, case.ali.image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return create_student(
            config.student,
            num_classes=case.num_classes if stage == "lm" else 0,
            image_size=config.image_size,
            patch_size=teacher.patch_embed.patch_size[0],
            end_heads=head_counts(teacher)[0],
            width=config.student_width,
            depth=config.student_depth,
            heads=config.student_heads,
            drop_path=config.drop_path,
        )


@lru_cache(maxsize=1)  # seconds for a large one, and both sides get a copy each
def _teacher(config: FinetuneTeacherConfig, num_classes: int, image_size: int) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if config.teacher == "scratch":
            return create_scratch_teacher(
                num_classes=num_classes,
                image_size=image_size,
                patch_size=config.teacher_patch,
                width=config.teacher_width,
                depth=config.teacher_depth,
                heads=config.teacher_heads,
            )
        teacher = create_teacher(config.teacher, num_classes=num_classes, image_size=image_size)
    if teacher.num_prefix_tokens != 1:
        raise CikdError(
            f"{config.teacher} has {teacher.num_prefix_tokens} tokens beside the patches; the reference knows one.",
            hint="--teacher-arch vit_base_patch16_224",
        )
    return teacher
