"""One size of the problem: its networks with random weights, its images, and what a run would make of them."""

import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from cikd_cli.bench.config import Stage
from cikd_cli.bench.reference import load_reference
from cikd_cli.data.sources import DataSource, Split
from cikd_cli.engine.precision import DTYPES, choose_precision
from cikd_cli.errors import CikdError
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.spec import HALF, ModelSpec
from cikd_cli.models.teachers import create_scratch_teacher, create_teacher
from cikd_cli.settings.methods import AliConfig, FinetuneTeacherConfig, LmConfig
from cikd_cli.settings.stages import STAGES
from cikd_cli.training.job import Job, Taught, student_job
from cikd_cli.training.networks import new_student


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

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(map(str, range(self.num_classes)))

    def stage(self, stage: Stage) -> AliConfig | LmConfig:
        """What a stage would be told."""
        return self.ali if stage == "ali" else self.lm

    def but(self, **values: Any) -> "Case":
        """The case with other settings of both stages, such as `batch_size`, `image_size` or `lob`."""
        shared = {key: value for key, value in values.items() if key != "lob"}
        return replace(self, ali=self.ali.model_copy(update=values), lm=self.lm.model_copy(update=shared))


def build_job(case: Case, stage: Stage, device: torch.device) -> Job:
    """What `cikd ali` or `cikd lm` would train, from scratch, on noise.

    Raises:
        CikdError: as `build_teacher`.
    """
    config, teacher = case.stage(stage), build_teacher(case)
    source = noise(case, config.batch_size)
    dtype = DTYPES[choose_precision(config.precision, device)]
    taught = Taught(None, FrozenTeacher(teacher, device=device, dtype=dtype), _describe(case, teacher))
    return student_job(STAGES[stage], config, source, taught, device)


def build_rival(case: Case, stage: Stage) -> tuple[VisionTransformer, VisionTransformer]:
    """Student and teacher with the same weights, as the reference runs them."""
    teacher = build_teacher(case)
    classes = case.classes if stage == "lm" else ()
    student: Any
    student, _ = new_student(case.stage(stage), teacher, _describe(case, teacher), classes=classes)
    load_reference().as_released(student, teacher, stage=stage, drop_path=case.ali.drop_path)
    return student, teacher


def noise(case: Case, images: int) -> DataSource:
    """Random images of the case's source size, with labels in turn."""
    drawn: Any = np.random.default_rng(0)
    pixels = drawn.integers(0, 256, (images, case.source_size, case.source_size, 3), dtype=np.uint8)
    return DataSource(
        classes=case.classes,
        train=Split(pixels, np.arange(images, dtype=np.int64) % case.num_classes),
        val=None,
        test=None,
        split="noise",
        name="noise",
        fingerprint="",
        skipped=0,
        looked_into=images,
    )


def build_teacher(case: Case) -> VisionTransformer:
    """The teacher's network at the stages' image size.

    Raises:
        CikdError: no timm name, or tokens that the reference does not know.
    """
    return copy.deepcopy(_teacher(case.teacher, case.num_classes, case.ali.image_size))


def _describe(case: Case, teacher: VisionTransformer) -> ModelSpec:
    return ModelSpec.describe(teacher, case.teacher.teacher, classes=case.classes, mean=HALF, std=HALF)


@lru_cache(maxsize=1)  # seconds for a large one, and both sides get a copy each
def _teacher(config: FinetuneTeacherConfig, num_classes: int, image_size: int) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if config.teacher == "scratch":
            shape = {key: getattr(config, f"teacher_{key}") for key in ("width", "depth", "heads")}
            sides = {"image_size": image_size, "patch_size": config.teacher_patch}
            return create_scratch_teacher(num_classes=num_classes, **sides, **shape)
        teacher = create_teacher(config.teacher, num_classes=num_classes, image_size=image_size)
    if teacher.num_prefix_tokens != 1:
        raise CikdError(
            f"{config.teacher} has {teacher.num_prefix_tokens} tokens beside the patches; the reference knows one.",
            hint="--teacher-arch vit_base_patch16_224",
        )
    return teacher
