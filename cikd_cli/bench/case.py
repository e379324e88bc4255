"""What `cikd bench` times: the recipe's sizes, with what was typed on top."""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch

from cikd_cli.bench.config import BenchConfig
from cikd_cli.bench.networks import Case, build_teacher
from cikd_cli.data.views import ViewLaw
from cikd_cli.methods.ali import learning_objective_block
from cikd_cli.settings.configs import TrainingConfig
from cikd_cli.settings.methods import AliConfig, FinetuneTeacherConfig, LmConfig
from cikd_cli.settings.recipes import resolve
from cikd_cli.settings.request import RunOptions

Training = TypeVar("Training", bound=TrainingConfig)

# Training images of the named sets (docs/method.md; MNIST's and the digits' own): sizes are wanted before any download.
TRAIN_IMAGES = {
    "digits": 1_437,
    "mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "cinic10": 90_000,
    "flowers": 2_040,
    "pets": 3_680,
    "aircraft": 6_667,
    "cars": 8_144,
    "chaoyang": 4_021,
}
CPU_PIXELS = 8 * 224**2  # of a batch: on a CPU the pace hardly depends on it, and a round should take seconds


@dataclass(frozen=True)
class Plan:
    """The case, and the run whose hours are projected. train_images: none when nobody knows."""

    case: Case
    recipe: str | None
    run_batches: dict[str, int]
    train_images: int | None

    def images_of_run(self, stage: str) -> int:
        """Images that the steps of a whole run see, each as often as it is seen."""
        assert self.train_images is not None
        batch = self.run_batches[stage]
        epochs = (self.case.ali if stage == "ali" else self.case.lm).epochs
        return epochs * (self.train_images // batch * batch or self.train_images)


def plan(config: BenchConfig, recipe: str | None, device: torch.device) -> Plan:
    """The recipe's case with the typed values on top.

    Raises:
        CikdError: as `recipes.resolve` and `build_teacher`, or a LOB outside the teacher.
    """
    ali, lm = _told(AliConfig, "ali", recipe), _told(LmConfig, "lm", recipe)
    teacher = _told(FinetuneTeacherConfig, "finetune-teacher", recipe)
    typed = {key: getattr(config, key) for key in ("image_size", "batch_size", "student", "precision")}
    shared: dict[str, Any] = {key: value for key, value in typed.items() if value is not None}
    shared |= {"compile": config.compile}
    ali = ali.model_copy(update=shared | _paper_views(ali))
    lm = lm.model_copy(update=shared | _paper_views(lm))
    if config.teacher_arch is not None:
        teacher = teacher.model_copy(update={"teacher": config.teacher_arch})
    batches = {"ali": ali.batch_size, "lm": lm.batch_size}
    train_images = config.train_images or (TRAIN_IMAGES.get(str(ali.data)) if recipe else None)
    case = Case(ali, lm, teacher, config.num_classes, config.source_size)
    if config.batch_size is None and device.type == "cpu":
        few = max(1, CPU_PIXELS // ali.image_size**2)
        case = replace(case, ali=_at_most(ali, few), lm=_at_most(lm, few))
    depth = len(build_teacher(case).blocks)
    lob = learning_objective_block(config.lob or ali.lob, images=train_images or 0, depth=depth)
    return Plan(case.but(lob=lob), recipe, batches, train_images)


def _told(config_class: type[Training], stage: str, recipe: str | None) -> Training:
    """What a recipe tells a stage."""
    config = resolve(config_class, stage, {}, options=RunOptions(recipe=recipe)).config
    assert isinstance(config, config_class)
    return config


def _paper_views(config: TrainingConfig) -> dict[str, Any]:
    """The law of the views as the paper has it, which is the reference's."""
    law = {field.name for field in fields(ViewLaw)} - {"image_size"}
    return {key: type(config).model_fields[key].default for key in law}


def _at_most(config: Training, batch: int) -> Training:
    return config.model_copy(update={"batch_size": min(batch, config.batch_size)})
