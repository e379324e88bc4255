"""`cikd lm`: stage 2, Logit Mimicking; without --from it is LM alone, with --no-distill the plain fine-tune."""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cikd_cli.data.sources import DataSource
from cikd_cli.engine.optim import LABEL_NO_DECAY
from cikd_cli.engine.precision import DTYPES, choose_precision
from cikd_cli.methods.lm import LogitMimicking
from cikd_cli.methods.supervised import Supervised
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.logit_cache import TeacherCache
from cikd_cli.models.weights import ModelSpec
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.configs import LmConfig
from cikd_cli.settings.request import Request
from cikd_cli.training import begin
from cikd_cli.training.job import (
    Job,
    check_same_images,
    data_facts,
    describe_network,
    describe_teacher,
    load_trunk,
    new_student,
    open_source,
    open_teacher,
    trainable_groups,
)
from cikd_cli.training.logit_cache import Facts, open_cache

Taught = tuple[RunDir | None, VisionTransformer, ModelSpec]  # no run while the teacher is yet to be trained


def run(request: Request) -> dict[str, Any]:
    """Train a student on labels and a teacher's logits; the summary for --json."""
    return begin.run(request, LmConfig, build=build)


def build(config: LmConfig, device: torch.device) -> Job:
    """Data, teacher, student and the method; raises CikdError for whatever cannot work."""
    source = open_source(config)
    check_same_images(config, source)
    return with_teacher(config, source, open_teacher(config, source) if config.teacher is not None else None, device)


def with_teacher(config: LmConfig, source: DataSource, taught: Taught | None, device: torch.device) -> Job:
    """A student made for a teacher, or for none, and the method; raises CikdError for whatever cannot work."""
    precision = choose_precision(config.precision, device)
    run, teacher, teacher_spec = taught or (None, None, None)
    parents = [run] if run else []
    facts = []
    if teacher is not None and teacher_spec is not None:
        told = "" if config.distill else "  (its heads and patches only: --no-distill)"
        facts.append(("teacher", f"{describe_teacher(run, teacher_spec, teacher)}{told}"))
    student, spec, came_from = _student(config, teacher_spec, source.classes)
    parents += came_from
    method: nn.Module = Supervised(student, mean=spec.mean, std=spec.std, smoothing=config.smoothing)
    cache: TeacherCache | None = None
    cached: Facts = [("teacher cache", "not used: --no-distill")] if config.teacher_cache else []
    if config.distill:
        assert teacher is not None
        frozen = FrozenTeacher(teacher, device=device, dtype=DTYPES[precision])
        if run is not None:
            cache, cached = open_cache(config, source, spec, run, precision=precision, device=device.type)
        method = _distillation(config, student, frozen, spec, cache)
    start = f"trunk from {came_from[0].path}" if came_from else "from scratch"
    facts += [
        (
            "student",
            f"{config.student} {describe_network(spec, student)}, {start}, new {len(source.classes)}-class head",
        ),
        *data_facts(source, config),
        ("objective", _describe_objective(config, len(source.classes))),
        *cached,
    ]
    return Job(
        config=config,
        source=source,
        method=method,
        model=student,
        spec=spec,
        groups=trainable_groups(student, config, LABEL_NO_DECAY),
        views_per_image=config.views_per_image,
        teacher_cache=cache,
        parents=parents,
        facts=facts,
    )


def _distillation(
    config: LmConfig, student: VisionTransformer, teacher: FrozenTeacher, spec: ModelSpec, cache: TeacherCache | None
) -> LogitMimicking:
    settings = config.model_dump(
        include={
            "alpha", "w_tckd", "temperature", "nckd_weighting", "kd_t2", "kd_warmup_epochs", "smoothing",
            "views_per_image",
        }
    )  # fmt: skip
    return LogitMimicking(student, teacher, mean=spec.mean, std=spec.std, cache=cache, **settings)


def _student(
    config: LmConfig, teacher: ModelSpec | None, classes: tuple[str, ...]
) -> tuple[VisionTransformer, ModelSpec, list[RunDir]]:
    if config.from_run is None:
        student, spec = new_student(config, teacher, classes=classes)
        return student, spec, []
    run = RunDir.open(config.from_run, stages=("ali", "lm"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # for the head, which is new (docs/method.md)
        student, spec = load_trunk(run, classes=classes, drop_path=config.drop_path)
    return student, spec, [run]


def _describe_objective(config: LmConfig, classes: int) -> str:
    labels = f"cross entropy, smoothing {config.smoothing:g}"
    if not config.distill:
        return labels
    nckd = "NCKD is zero for two classes" if classes == 2 else f"α {config.alpha:g} × NCKD ({config.nckd_weighting})"
    return (
        f"{labels} + g(epoch) × (TCKD + {nckd}), T {config.temperature:g}, "
        f"g rises over {config.kd_warmup_epochs} epochs"
    )
