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
from cikd_cli.runs.inheritance import DATA_KNOBS
from cikd_cli.settings.configs import CurriculumConfig, DataConfig, LmConfig, StudentConfig
from cikd_cli.settings.recipes import MAY_DIFFER
from cikd_cli.settings.request import Request, Resolved, RunOptions
from cikd_cli.training import ali, finetune_teacher, lm
from cikd_cli.training.job import Job, fit_batch, open_source
from cikd_cli.training.logit_cache import cache_folder, check_folder
from cikd_cli.training.rehearsal import roughly, seconds_of, worth_foretelling

LONG = 12 * 3600.0  # seconds: a run that no one waits for
LAPTOP = "laptop"  # the recipe for a machine without a GPU


def build_all(resolved: Resolved, hardware: Hardware, options: RunOptions, *, fetch: bool = True) -> dict[str, Job]:
    """The job of every stage of a curriculum, none of whose runs needs to be there; by stage, and "baseline".

    The later ones stand on the teacher as it is before it is trained. fetch: as in teacher.build.

    Raises:
        CikdError: for whatever cannot work in any of them.
    """
    config, device = resolved.config, hardware.device
    assert isinstance(config, CurriculumConfig)
    teacher = finetune_teacher.build(config.finetune_teacher, device, fetch=fetch)
    jobs = {"finetune-teacher": teacher}
    source = _same_images(config.ali, config, teacher.source)
    frozen = FrozenTeacher(
        copy.deepcopy(teacher.model), device=device, dtype=DTYPES[choose_precision(config.ali.precision, device)]
    )
    jobs["ali"] = ali.with_student(config.ali, ali.Given(source, None, frozen, teacher.spec), device)
    jobs["lm"] = _lm(config.lm, config, teacher, hardware, options)
    for name, job in jobs.items():
        choose_precision(job.config.precision, device)
        if f"{name.replace('-', '_')}.batch_size" in resolved.by_data:
            fit_batch(job, hardware.processes)
        # for what it raises
        Steps(job.config.seed, len(job.source.train), job.config.batch_size, rank=0, size=hardware.processes)
    if config.baseline:
        taught = [(job.config.epochs, job.config.batch_size) for job in (jobs["ali"], jobs["lm"])]
        told = baseline_settings(config, len(source.train), taught)
        jobs["baseline"] = _lm(config.lm.model_copy(update=told), config, teacher, hardware, options)
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
    offer_laptop(total, jobs["finetune-teacher"].config, resolved.recipe, hardware, options, out)


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
    kept = ("data", "data_root", "fraction", "val", "skip_unreadable")
    request = Request("run", {key: getattr(config, key) for key in kept}, RunOptions(recipe=LAPTOP))
    jobs = build_all(resolve_curriculum(request), hardware, options, fetch=False)
    return sum(seconds_of([job], hardware, options) for job in jobs.values())


def _lm(config: LmConfig, all_stages: CurriculumConfig, teacher: Job, hardware: Hardware, options: RunOptions) -> Job:
    folder = cache_folder(config, Path(options.runs_dir))
    if folder is not None:
        check_folder(folder)
    source = _same_images(config, all_stages, teacher.source)
    taught = (None, copy.deepcopy(teacher.model), teacher.spec)
    return lm.with_teacher(config, source, taught, hardware.device)


def _same_images(config: StudentConfig, all_stages: CurriculumConfig, source: DataSource) -> DataSource:
    """The teacher's images, unless the stage is told to look for them elsewhere or otherwise: then it must find them.

    Raises:
        CikdError: they are not there, or other ones are.
    """
    asked: dict[str, Any] = {key: getattr(config, key) for key in (*DATA_KNOBS, "download") if key in MAY_DIFFER}
    if all(value == getattr(all_stages.finetune_teacher, key) for key, value in asked.items()):
        return source
    found = open_source(config)
    if found.fingerprint != source.fingerprint:
        told = ", ".join(f"{key} {value}" for key, value in asked.items())
        raise CikdError(
            f"The images of {config.data} with {told} are not those that the teacher will be trained on",
            hint="leave these out; every stage looks where the teacher's does",
        )
    return found
