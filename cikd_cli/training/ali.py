"""`cikd ali`: stage 1, Attention Locality Imitation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from cikd_cli.data.sources import DataSource
from cikd_cli.engine.optim import ALI_NO_DECAY
from cikd_cli.engine.precision import DTYPES, choose_precision
from cikd_cli.errors import CikdError
from cikd_cli.kernels.relation_kl import why_not_fused
from cikd_cli.methods.ali import Ali, learning_objective_block, share_teacher
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.weights import ModelSpec
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.configs import AliConfig
from cikd_cli.settings.request import Request
from cikd_cli.training import begin
from cikd_cli.training.job import (
    Job,
    data_facts,
    describe_network,
    describe_teacher,
    load_trunk,
    new_student,
    open_source,
    open_teacher,
    trainable_groups,
)


def run(request: Request) -> dict[str, Any]:
    """Train a student's relations on a teacher's, or several students'; the summary for --json."""
    return begin.run(request, AliConfig, build=build, build_together=build_together)


def build(config: AliConfig, device: torch.device) -> Job:
    """Data, teacher, student and the method; raises CikdError for whatever cannot work."""
    return with_student(config, _look_up(config, device), device)


def build_together(configs: Sequence[AliConfig], device: torch.device) -> list[Job]:
    """As build, for students that differ in their learning objective block: one source, one pass of one teacher."""
    given = _look_up(configs[0], device)
    if configs[0].pairs is not None:
        lobs = ",".join(str(config.lob) for config in configs)
        raise CikdError(f"pairs name the blocks themselves, so --lob {lobs} has none to choose.", hint="leave one out")
    jobs = [with_student(config, given, device) for config in configs]
    share_teacher([job.method for job in jobs if isinstance(job.method, Ali)])
    return jobs


@dataclass(frozen=True)
class Given:
    """What students are made for: the images, and the teacher; run: none while the teacher is yet to be trained."""

    source: DataSource
    run: RunDir | None
    teacher: FrozenTeacher
    spec: ModelSpec


def _look_up(config: AliConfig, device: torch.device) -> Given:
    assert config.teacher is not None
    teacher_run = RunDir.open(config.teacher, stages=("finetune-teacher",))
    same_data = config.data == teacher_run.record["data"]["name"]
    source = open_source(config, labelled=same_data)  # labels of the teacher's data only make the same split again
    teacher_run, teacher, spec = open_teacher(config, source if same_data else None)
    dtype = DTYPES[choose_precision(config.precision, device)]
    return Given(source, teacher_run, FrozenTeacher(teacher, device=device, dtype=dtype), spec)


def with_student(config: AliConfig, given: Given, device: torch.device) -> Job:
    """A student made for what is given, and the method; raises CikdError for whatever cannot work."""
    source, run, teacher, teacher_spec = given.source, given.run, given.teacher, given.spec
    student, spec, parents = _student(config, teacher_spec)
    pairs = _tapped_pairs(config, teacher_spec, spec, images=len(source.train))
    method = Ali(
        student,
        teacher,
        pairs=pairs,
        mean=spec.mean,
        std=spec.std,
        qk=config.qk,
        vv=config.vv,
    )
    return Job(
        config=config,
        source=source,
        method=method,
        model=student,
        spec=spec,
        groups=trainable_groups(student, config, ALI_NO_DECAY),
        two_views=any(config.jitter),
        scored=False,
        parents=[*([run] if run else []), *parents],
        facts=[
            ("teacher", describe_teacher(run, teacher_spec, teacher.vit)),
            ("student", f"{config.student} {describe_network(spec, student)}, {_origin(parents)}"),
            *data_facts(source, config),
            ("relations", _describe_relations(config, pairs, source)),
            *_describe_kernel(device, teacher.dtype, pairs, teacher_spec, spec),
        ],
    )


def _tapped_pairs(
    config: AliConfig, teacher: ModelSpec, student: ModelSpec, *, images: int
) -> tuple[tuple[int, int], ...]:
    """(teacher block, student block) pairs; blocks must exist and heads be as many, as they are compared by index."""
    pairs = config.pairs
    if pairs is None:
        pairs = ((1, 1), (learning_objective_block(config.lob, images=images, depth=teacher.depth), student.depth))
    for t, s in pairs:
        if not (1 <= t <= teacher.depth and 1 <= s <= student.depth):
            raise CikdError(
                f"The pair {t}:{s} is outside the teacher's 1..{teacher.depth} and the student's 1..{student.depth}.",
                hint=f"--pairs 1:1,{teacher.depth}:{student.depth}",
            )
        if teacher.heads[t - 1] != student.heads[s - 1]:
            raise CikdError(
                f"Block {t} of the teacher has {teacher.heads[t - 1]} heads, block {s} of the student "
                f"{student.heads[s - 1]}; relations are compared head by head.",
                hint=f"--pairs 1:1,{t}:{student.depth} (the student's end blocks have the teacher's heads)",
            )
    return pairs


def _student(config: AliConfig, teacher: ModelSpec) -> tuple[VisionTransformer, ModelSpec, list[RunDir]]:
    if config.from_run is None:
        student, spec = new_student(config, teacher, classes=())
        return student, spec, []
    run = RunDir.open(config.from_run, stages=("ali", "lm"))
    student, spec = load_trunk(run, classes=(), drop_path=config.drop_path)
    for what in ("image_size", "patch_size", "mean", "std"):
        if getattr(spec, what) != getattr(teacher, what):
            raise CikdError(
                f"The student of {run.path} has {what} {getattr(spec, what)}, the teacher {getattr(teacher, what)}.",
                hint="leave --from out, or take the teacher the student was made for",
            )
    return student, spec, [run]


def _describe_kernel(
    device: torch.device,
    dtype: torch.dtype,
    pairs: tuple[tuple[int, int], ...],
    teacher: ModelSpec,
    student: ModelSpec,
) -> list[tuple[str, str]]:
    """On a GPU, whether the loss is fused, or why not."""
    if device.type != "cuda":
        return []
    widest = max(
        model.width // model.heads[block - 1]
        for pair in pairs
        for model, block in zip((teacher, student), pair, strict=True)
    )
    reason = why_not_fused(device, dtype, width=widest)
    return [("loss", "fused in Triton" if reason is None else f"a few images at a time ({reason})")]


def _origin(parents: list[RunDir]) -> str:
    return f"trunk from {parents[0].path}" if parents else "from scratch"


def _describe_relations(config: AliConfig, pairs: tuple[tuple[int, int], ...], source: DataSource) -> str:
    kinds = " and ".join(name for name, wanted in (("QK", config.qk), ("VV", config.vv)) if wanted)
    listed = ", ".join(f"teacher block {t} → student block {s}" for t, s in pairs)
    if config.lob == "auto" and not config.pairs:
        listed += (
            f"  (auto, a heuristic: {len(source.train):,} images; of 12 blocks 10 from 20,000 images, "
            "9 from 5,000, 8 from 2,000, else 7)"
        )
    return f"{kinds} of {listed}"
