"""What a training stage takes from the runs before it: its data, its teacher, its student, and the recipe they had."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cikd_cli.errors import CikdError
from cikd_cli.runs import ancestry
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.lineage import newest_run
from cikd_cli.settings.batch_size import fitting_batch
from cikd_cli.settings.configs import StageConfig
from cikd_cli.settings.knob import Role, knobs_with, parent_knobs
from cikd_cli.settings.names import data_name, recipe_names
from cikd_cli.settings.parse import validate
from cikd_cli.settings.recipes import resolve, typed_values
from cikd_cli.settings.request import Request, Resolved, RunOptions
from cikd_cli.settings.stages import STAGES, STUDENT, TEACHER


@dataclass(frozen=True)
class Inherited:
    """Values that a parent hands down (knob -> value), the parent, and what to say about how it was found."""

    values: Mapping[str, Any]
    parent: RunDir | None
    note: str = ""


NOTHING = Inherited({}, None)


def resolve_stage(
    config_class: type[StageConfig], request: Request, *, whole: bool = True
) -> tuple[Resolved, Inherited]:
    """The config of a training stage: what is typed, over what the parent hands down, over the (parent's) recipe.

    whole: as for RunDir.open.

    Raises:
        CikdError: as `inherit` and `resolve`.
    """
    typed = typed_values(config_class, request.stage, request.flags, request.options)
    inherited = inherit(replace(request, flags=typed), whole=whole)
    resolved = resolve(
        config_class,
        request.stage,
        request.flags,
        options=_with_recipe_of(inherited.parent, request.options),
        inherited=inherited.values,
        inherited_from=str(inherited.parent.path) if inherited.parent else None,
    )
    return resolved, inherited


def with_known_batch(resolved: Resolved, inherited: Inherited, processes: int) -> Resolved:
    """For showing: the batch that the data will choose, where a parent on the same images has counted them."""
    counted = inherited.parent.record.data if inherited.parent else None
    if counted is None or not resolved.by_data or counted.name != inherited.values.get("data"):
        return resolved
    most = resolved.config.model_dump()["batch_size"]
    batch = fitting_batch(most, counted.train, processes)
    if batch == most:
        return resolved
    return replace(
        resolved,
        config=resolved.config.model_copy(update={"batch_size": batch}),
        sources=resolved.sources | {"batch_size": f"by the data ({counted.train:,} images)"},
    )


def inherit(request: Request, *, whole: bool = True) -> Inherited:
    """What the stage of a request takes from its parents; the flags are all that was typed, by flag, --set or --config.

    Raises:
        CikdError: a run that is named cannot be used, or none is named and there is no finished teacher.
    """
    stage, flags = STAGES[request.stage], request.flags
    named = {takes: flags.get(key) for key, takes in parent_knobs(stage.config)}
    if not named:
        return NOTHING
    began = named.get(STUDENT)
    start = RunDir.open(began, giving=STUDENT, whole=whole) if began else None
    if start is not None and stage.labels:
        return _from_start(start)
    runs_dir, note = Path(request.options.runs_dir), "" if named.get(TEACHER) else "  [the newest finished one]"
    if start is not None and not named.get(TEACHER) and not flags.get("data"):
        teacher, note = ancestry.parent(start, TEACHER), f"  [the teacher of {start.path}]"
    else:
        try:
            teacher = _find_teacher(named.get(TEACHER), flags.get("data"), runs_dir, whole)
        except CikdError:
            if named.get(TEACHER) or validate(stage.config, flags, command=stage.command).needs_teacher:
                raise
            return NOTHING
    values = inherited_settings(teacher) | (student_settings(start) if start is not None else {})
    if not stage.labels and flags.get("data") is not None and data_name(flags["data"]) != values["data"]:
        for key in set(knobs_with(stage.config, Role.IMAGES)) - set(knobs_with(stage.config, Role.PLACE)):
            values.pop(key, None)
    return Inherited(values, teacher, note)


def _from_start(start: RunDir) -> Inherited:
    """The run that a student comes from hands down data, teacher and student."""
    values = inherited_settings(start)
    if not start.record.data.classes:  # it saw unlabelled images; labels are those of the teacher's data
        values |= inherited_settings(ancestry.parent(start, TEACHER))
    return Inherited(values, start, "  [from the parent]")


def _find_teacher(named: str | None, data: str | None, runs_dir: Path, whole: bool) -> RunDir:
    """The teacher run named, or the newest finished one for the data set."""
    if named:
        if not Path(named).is_dir():
            raise CikdError(
                f"{named} is no run, and a teacher has to know the classes first.",
                hint=f"cikd finetune-teacher --data {data or '…'} --teacher {named}",
            )
        return RunDir.open(named, giving=TEACHER, whole=whole)
    if data is None:
        raise CikdError(
            "No images are named.", hint="--data cifar100, a folder, or --teacher RUN to take the teacher's"
        )
    found = newest_run(runs_dir, TEACHER, data=data_name(data))
    if found is None:
        raise CikdError(
            f"There is no finished teacher for {data} in {runs_dir}.",
            hint=f"cikd finetune-teacher --data {data}   (unlabelled images: name one with --teacher RUN)",
        )
    return found


def inherited_settings(parent: RunDir) -> dict[str, Any]:
    """What a child takes from `parent`: its data, image size and normalisation, its student, and its teacher run.

    A teacher run hands on the data and itself.
    """
    config = parent.config()
    knobs, model = STAGES[parent.stage].config, parent.record.model
    inherited = {key: config[key] for key in knobs_with(knobs, Role.IMAGES | Role.INPUT) if key in config}
    said = {key: getattr(model, key, None) for key in knobs_with(knobs, Role.INPUT)}
    inherited |= {key: tuple(value) if isinstance(value, list) else value for key, value in said.items() if value}
    if parent.gives(TEACHER):
        return inherited | {TEACHER: str(parent.path)}
    inherited |= student_settings(parent)
    if ancestry.entries(parent, TEACHER):
        inherited[TEACHER] = str(ancestry.parent(parent, TEACHER).path)
    return inherited


def student_settings(parent: RunDir) -> dict[str, Any]:
    """The knobs that describe the student of a run."""
    config = parent.config()
    return {key: config[key] for key in knobs_with(STAGES[parent.stage].config, Role.STUDENT) if key in config}


def _with_recipe_of(parent: RunDir | None, options: RunOptions) -> RunOptions:
    """The options with the parent's recipe, unless one is named."""
    recipe = None if parent is None or options.recipe else parent.record.recipe
    if recipe is None or (recipe not in recipe_names() and not Path(recipe).is_file()):
        return options
    return options.model_copy(update={"recipe": recipe})
