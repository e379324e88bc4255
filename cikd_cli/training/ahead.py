"""What `cikd run` can know of its stages before the first one trains for hours: what is wrong, and what they cost."""

import copy
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cikd_cli.console import Reporter
from cikd_cli.data.order import Steps
from cikd_cli.data.sources import DataSource
from cikd_cli.engine.precision import DTYPES, choose_precision
from cikd_cli.errors import CikdError
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.processes.world import Hardware
from cikd_cli.runs.chain import baseline_settings, resolve_curriculum
from cikd_cli.settings.configs import DataConfig, StudentConfig
from cikd_cli.settings.knob import Role, knobs_with
from cikd_cli.settings.methods import CurriculumConfig
from cikd_cli.settings.request import Request, Resolved, RunOptions
from cikd_cli.settings.stages import Kind, Stage, curriculum
from cikd_cli.training.images import open_source
from cikd_cli.training.job import Job, Taught, fit_batch, student_job, teacher_job
from cikd_cli.training.logit_cache import cache_folder, check_folder
from cikd_cli.training.rehearsal import roughly, seconds_of, worth_foretelling

LONG = 12 * 3600.0  # seconds: a run that no one waits for
BASELINE = "baseline"  # the last student once more, by labels alone
LAPTOP = "laptop"  # the recipe for a machine without a GPU


def build_all(resolved: Resolved, hardware: Hardware, options: RunOptions, *, fetch: bool = True) -> dict[str, Job]:
    """The job of every stage of a curriculum, none of whose runs needs to be there; by stage, and "baseline".

    The later ones stand on the teacher as it is before it is trained. fetch: as in teacher.build.

    Raises:
        CikdError: for whatever cannot work in any of them.
    """
    config, device = resolved.config, hardware.device
    assert isinstance(config, CurriculumConfig)
    teacher, jobs, stages = None, {}, curriculum(Kind.TRAINING)
    for name, stage in stages.items():
        its = getattr(config, name.replace("-", "_"))
        if isinstance(its, StudentConfig):
            assert teacher is not None
            jobs[name] = _student(stage, its, teacher, hardware, options)
        else:
            jobs[name] = teacher = teacher_job(stage, its, device, fetch=fetch)
    for name, job in jobs.items():
        choose_precision(job.config.precision, device)
        if f"{name.replace('-', '_')}.batch_size" in resolved.by_data:
            fit_batch(job, hardware.processes)
        # for what it raises
        Steps(job.config.seed, len(job.source.train), job.config.batch_size, rank=0, size=hardware.processes)
    if config.baseline:
        assert teacher is not None
        taught = [(job.config.epochs, job.config.batch_size) for job in jobs.values() if job is not teacher]
        told = baseline_settings(config, len(teacher.source.train), taught)
        jobs[BASELINE] = _student(
            list(stages.values())[-1], config.lm.model_copy(update=told), teacher, hardware, options
        )
    return jobs


def foretell_all(
    jobs: Mapping[str, Job], resolved: Resolved, hardware: Hardware, options: RunOptions, out: Reporter
) -> None:
    """On a CPU, the hours of every stage if they may be many, and the laptop recipe's if they are more than LONG."""
    if not any(worth_foretelling([job], hardware, options) for job in jobs.values()):
        return
    seconds = {name: seconds_of([job], hardware, options) for name, job in jobs.items()}
    total = sum(seconds.values())
    parts = ", ".join(f"{name} {roughly(each).removeprefix('about ')}" for name, each in seconds.items())
    out.fields([("plan", f"{roughly(total)} of training on {hardware}: {parts}")])
    offer_laptop(total, next(iter(jobs.values())).config, resolved.recipe, hardware, options, out)


def offer_laptop(
    seconds: float, config: DataConfig, recipe: str | None, hardware: Hardware, options: RunOptions, out: Reporter
) -> None:
    """In a sentence, the laptop recipe on the same images, where what is asked for takes more than LONG."""
    if seconds <= LONG or recipe == LAPTOP:
        return
    told = f"this would take {roughly(seconds)} on this machine"
    try:
        laptop = _laptop_seconds(config, hardware, options)
    except CikdError:  # such as images without labels
        laptop = seconds
    if laptop < seconds:
        command = f"cikd run --data {shlex.quote(str(config.data))} --recipe {LAPTOP}"
        told += f"; {command} (smaller networks and images) takes {roughly(laptop)}"
    out.warn(told)


def _laptop_seconds(config: DataConfig, hardware: Hardware, options: RunOptions) -> float:
    kept = {key: getattr(config, key) for key in knobs_with(DataConfig, Role.IMAGES)}
    request = Request("run", kept, RunOptions(recipe=LAPTOP))
    jobs = build_all(resolve_curriculum(request), hardware, options, fetch=False)
    return sum(seconds_of([job], hardware, options) for job in jobs.values())


def _student(stage: Stage, config: StudentConfig, teacher: Job, hardware: Hardware, options: RunOptions) -> Job:
    """The job of a student of a teacher that is yet to be trained."""
    folder = cache_folder(config, Path(options.runs_dir))
    if folder is not None:
        check_folder(folder)
    dtype = DTYPES[choose_precision(config.precision, hardware.device)]
    frozen = FrozenTeacher(copy.deepcopy(teacher.method.student), device=hardware.device, dtype=dtype)
    source = _same_images(config, teacher)
    return student_job(stage, config, source, Taught(None, frozen, teacher.spec), hardware.device)


def _same_images(config: StudentConfig, teacher: Job) -> DataSource:
    """The teacher's images, unless the stage is told to look for them elsewhere or otherwise: then it must find them.

    Raises:
        CikdError: they are not there, or other ones are.
    """
    places = set(knobs_with(type(config), Role.PLACE)) & set(knobs_with(DataConfig, Role.PLACE | Role.IMAGES))
    asked: dict[str, Any] = {key: getattr(config, key) for key in sorted(places)}
    if all(value == getattr(teacher.config, key) for key, value in asked.items()):
        return teacher.source
    found = open_source(config)
    if found.fingerprint != teacher.source.fingerprint:
        told = ", ".join(f"{key} {value}" for key, value in asked.items())
        raise CikdError(
            f"The images of {config.data} with {told} are not those that the teacher will be trained on",
            hint="leave these out; every stage looks where the teacher's does",
        )
    return found
