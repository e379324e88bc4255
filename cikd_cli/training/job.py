"""What a training stage builds from its config before anything is written: data, networks, method, facts to print."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cikd_cli.analysis.pretrained import neighbour_test
from cikd_cli.console import Reporter
from cikd_cli.data.sources import DataSource
from cikd_cli.engine.precision import DTYPES, choose_precision
from cikd_cli.errors import CikdError
from cikd_cli.methods import Facts, Given, Method
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.network import describe, patch_size
from cikd_cli.models.places import whole_name
from cikd_cli.models.spec import ModelSpec
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.batch_size import fitting_batch
from cikd_cli.settings.configs import StudentConfig, TrainingConfig
from cikd_cli.settings.methods import FinetuneTeacherConfig
from cikd_cli.settings.stages import CLASSES, STUDENT, TEACHER, Stage
from cikd_cli.text import listed
from cikd_cli.training.images import check_same_images, data_facts, mostly_there, open_source
from cikd_cli.training.logit_cache import open_cache
from cikd_cli.training.networks import load_run, load_trunk, named_network, new_student, seeded

Warn = Callable[[str], None]


@dataclass
class Job:
    """A stage ready to train.

    config: with data and parents resolved. method: holds the network that becomes the deliverable, which spec
    describes. parents: runs this one stands on, by the knob that names them, teacher first. facts: (label, text) rows
    for the header. examine: a look at the networks that only a new run needs, told to the reporter.
    """

    config: TrainingConfig
    source: DataSource
    method: Method
    spec: ModelSpec
    parents: dict[str, RunDir] = field(default_factory=dict)
    facts: Facts = field(default_factory=list)
    examine: Callable[[Reporter], None] | None = None


@dataclass(frozen=True)
class Taught:
    """Who teaches; run: none while the teacher is yet to be trained."""

    run: RunDir | None
    teacher: FrozenTeacher
    spec: ModelSpec

    def __str__(self) -> str:
        """The run, if there is one yet, and the network."""
        return f"{f'{self.run.path}  ' if self.run else ''}{self.spec.name} {describe(self.teacher.network)}"


def build(stage: Stage, config: Any, device: torch.device, *, warn: Warn = lambda _: None) -> Job:
    """Data, networks and the method; raises CikdError for whatever cannot work. warn: as for TeacherCache."""
    return build_together(stage, [config], device, warn=warn)[0]


def build_together(
    stage: Stage, configs: Sequence[Any], device: torch.device, *, warn: Warn = lambda _: None
) -> list[Job]:
    """As build, for configs that differ in one knob of the method: students share one source and one teacher."""
    config = configs[0]
    if not isinstance(config, StudentConfig):
        return [teacher_job(stage, each, device) for each in configs]
    source, taught = _look_up(stage, config, device)
    jobs = [student_job(stage, each, source, taught, device, warn=warn) for each in configs]
    if len(jobs) > 1:
        together: Any = type(jobs[0].method)
        together.together([job.method for job in jobs])
    return jobs


def teacher_job(stage: Stage, config: FinetuneTeacherConfig, device: torch.device, *, fetch: bool = True) -> Job:
    """The job of a network that a word names and that nobody teaches; fetch: as for `named_network`."""
    source = open_source(config)
    start = named_network(config, source.classes, fetch=fetch)
    mean, std = config.mean or start.mean, config.std or start.std
    spec = ModelSpec.describe(
        start.model, start.architecture, classes=source.classes, mean=mean, std=std, image_size=config.image_size
    )
    given = Given(start.model, spec, None, None, None, len(source.train), device)
    with seeded(config.seed):
        method = stage.build(config, given)
    facts = [("teacher", f"{start.architecture} {describe(start.model)}, {start.origin}"), *data_facts(source, config)]
    return Job(
        config=config.model_copy(update={"mean": mean, "std": std, "teacher": whole_name(config.teacher)}),
        source=source,
        method=method,
        spec=spec,
        parents={TEACHER: start.parent} if start.parent else {},
        facts=[*facts, *method.facts],
        examine=(lambda out: _examine(start.model, source, spec, device, out)) if start.pretrained else None,
    )


def student_job(
    stage: Stage,
    config: StudentConfig,
    source: DataSource,
    taught: Taught | None,
    device: torch.device,
    *,
    warn: Warn = lambda _: None,
) -> Job:
    """The job of a student made for a teacher, or for none."""
    classes = source.classes if CLASSES in stage.gives else ()
    parents = {TEACHER: taught.run} if taught is not None and taught.run is not None else {}
    if config.from_run is None:
        network = taught.teacher.network if taught else None
        student, spec = new_student(config, network, taught.spec if taught else None, classes=classes)
        origin = "from scratch"
    else:
        parents["from_run"] = start = RunDir.open(config.from_run, giving=STUDENT)
        student, spec = load_trunk(start, classes=classes, drop_path=config.drop_path, seed=config.seed)
        origin = f"trunk from {start.path}"
    given = Given(
        student=student,
        spec=spec,
        teacher=taught.teacher if taught else None,
        teacher_spec=taught.spec if taught else None,
        started=config.from_run,
        images=len(source.train),
        device=device,
        logit_cache=lambda: open_cache(config, source, spec, parents.get(TEACHER), device=device, warn=warn),
    )
    with seeded(config.seed):  # for what a method trains beside the student
        method = stage.build(config, given)
    unheard = "" if method.teacher is not None else "  (its heads and patches only)"
    head = f", new {len(classes)}-class head" if classes else ""
    return Job(
        config=config,
        source=source,
        method=method,
        spec=spec,
        parents=parents,
        facts=[
            *([("teacher", f"{taught}{unheard}")] if taught else []),
            ("student", f"{config.student} {describe(student)}, {origin}{head}"),
            *data_facts(source, config),
            *method.facts,
        ],
    )


def fit_batch(job: Job, processes: int) -> None:
    """Let the training images lower the batch of a job whose batch nobody has named."""
    batch = fitting_batch(job.config.batch_size, len(job.source.train), processes)
    job.config = job.config.model_copy(update={"batch_size": batch})


def _look_up(stage: Stage, config: StudentConfig, device: torch.device) -> tuple[DataSource, Taught | None]:
    """Images and teacher; labels of the teacher's own images are read, if only to make the same split again."""
    run = RunDir.open(config.teacher, giving=TEACHER) if config.teacher is not None else None
    labelled = stage.labels or (run is not None and config.data == run.record.data.name)
    source = open_source(config, labelled=labelled)
    if stage.labels:
        check_same_images(config, source)
    if run is None:
        return source, None
    model, spec = _open_teacher(run, config, source if labelled else None)
    dtype = DTYPES[choose_precision(config.precision, device)]
    return source, Taught(run, FrozenTeacher(model, device=device, dtype=dtype), spec)


def _open_teacher(run: RunDir, config: StudentConfig, source: DataSource | None) -> tuple[Any, ModelSpec]:
    """The network and spec of a teacher run; its classes and data must be those of `source`."""
    model, spec = load_run(run)
    command = f"cikd finetune-teacher --data {config.data}"
    patch = patch_size(model) or 1
    if spec.image_size % patch:
        tiled = max(spec.image_size // patch, 1) * patch
        raise CikdError(
            f"The teacher {run.path} was trained at {spec.image_size} px, which its patches of {patch} px do "
            "not tile; its student would see other patches.",
            hint=f"{command} --image-size {tiled}",
        )
    if source is None:
        return model, spec
    if spec.classes != source.classes:
        raise CikdError(
            f"The teacher {run.path} knows {spec.num_classes} classes ({listed(spec.classes)}), "
            f"{config.data} has {len(source.classes)} ({listed(source.classes)}).",
            hint=command,
        )
    if run.record.data.fingerprint != source.fingerprint and not mostly_there(run, source):
        raise CikdError(
            f"The images of {config.data} are not those the teacher {run.path} was trained on (their fingerprints "
            f"{run.record.data.fingerprint[:8]}… and {source.fingerprint[:8]}… differ).",
            hint=command,
        )
    return model, spec


def _examine(model: Any, source: DataSource, spec: ModelSpec, device: torch.device, out: Reporter) -> None:
    """Say whether the weights know anything before the first step; warn when they do not."""
    found = neighbour_test(model, source.train, spec, device=device)
    text = (
        f"nearest neighbours of {found.images} images agree for {found.loaded:.0f} %, "
        f"{found.untrained:.0f} % with random weights"
    )
    if found.loaded <= found.untrained:
        out.warn(f"these weights look untrained ({text}); check --teacher and its file")
    else:
        out.fields([("zero-shot", text)])
