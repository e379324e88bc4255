"""What a training stage takes from the runs before it: its data, its teacher, its student, and the recipe they had."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cikd_cli.errors import CikdError
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.lineage import newest_run
from cikd_cli.settings.batch_size import fitting_batch
from cikd_cli.settings.configs import StageConfig
from cikd_cli.settings.names import data_name, recipe_names
from cikd_cli.settings.recipes import resolve, typed_values
from cikd_cli.settings.request import Request, Resolved, RunOptions

DATA_KNOBS = (
    "data",
    "data_root",
    "fraction",
    "val",
    "split_seed",
    "image_size",
    "mean",
    "std",
    "decode_size",
    "skip_unreadable",
)
STUDENT_KNOBS = ("student", "student_width", "student_depth", "student_heads")


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
    counted = (inherited.parent.record.get("data") or {}) if inherited.parent else {}
    if not (resolved.by_data and inherited.values.get("data") and counted.get("name") == inherited.values["data"]):
        return resolved
    most = resolved.config.model_dump()["batch_size"]
    batch = fitting_batch(most, counted["train"], processes)
    if batch == most:
        return resolved
    return replace(
        resolved,
        config=resolved.config.model_copy(update={"batch_size": batch}),
        sources=resolved.sources | {"batch_size": f"by the data ({counted['train']:,} images)"},
    )


def inherit(request: Request, *, whole: bool = True) -> Inherited:
    """What the stage of a request takes from its parent; the flags are all that was typed, by flag, --set or --config.

    Raises:
        CikdError: the run that is named cannot be used, or none is named and there is no finished teacher.
    """
    if request.stage == "ali":
        return _for_ali(request.flags, Path(request.options.runs_dir), whole)
    if request.stage == "lm":
        return _for_lm(request.flags, Path(request.options.runs_dir), whole)
    return NOTHING


def _for_ali(flags: Mapping[str, Any], runs_dir: Path, whole: bool) -> Inherited:
    """The teacher hands down data, image size and normalisation; other images may be named, labels are not read."""
    named = flags.get("from_run")
    started = RunDir.open(named, stages=("ali", "lm"), whole=whole) if named else None
    note = _how_found(flags)
    if started is not None and not flags.get("teacher") and not flags.get("data"):
        teacher, note = started.parent("finetune-teacher"), f"  [the teacher of {started.path}]"
    else:
        teacher = _find_teacher(flags.get("teacher"), flags.get("data"), runs_dir, whole)
    values = inherited_settings(teacher)
    if started is not None:
        values |= student_settings(started)
    if flags.get("data") is not None and data_name(flags["data"]) != values["data"]:
        for key in ("data", "fraction", "val"):
            values.pop(key, None)
    return Inherited(values, teacher, note)


def _for_lm(flags: Mapping[str, Any], runs_dir: Path, whole: bool) -> Inherited:
    """The parent hands down data, teacher and student; without one, the teacher does."""
    if flags.get("from_run") is not None:
        parent = RunDir.open(flags["from_run"], stages=("ali", "lm"), whole=whole)
        values = inherited_settings(parent)
        if not parent.record["data"]["classes"]:  # ALI saw unlabelled images; labels are those of the teacher's data
            values |= inherited_settings(parent.parent("finetune-teacher"))
        return Inherited(values, parent, "  [from the parent]")
    try:
        teacher = _find_teacher(flags.get("teacher"), flags.get("data"), runs_dir, whole)
    except CikdError:  # none: labels alone can do without
        if flags.get("distill", True) or flags.get("teacher"):
            raise
        return NOTHING
    return Inherited(inherited_settings(teacher), teacher, _how_found(flags))


def _how_found(flags: Mapping[str, Any]) -> str:
    return "" if flags.get("teacher") else "  [the newest finished one]"


def _find_teacher(named: str | None, data: str | None, runs_dir: Path, whole: bool) -> RunDir:
    """The teacher run named, or the newest finished one for the data set."""
    if named:
        if not Path(named).is_dir():
            raise CikdError(
                f"{named} is no run, and a teacher has to know the classes first.",
                hint=f"cikd finetune-teacher --data {data or '…'} --teacher {named}",
            )
        return RunDir.open(named, stages=("finetune-teacher",), whole=whole)
    if data is None:
        raise CikdError(
            "No images are named.", hint="--data cifar100, a folder, or --teacher RUN to take the teacher's"
        )
    found = newest_run(runs_dir, "finetune-teacher", data=data_name(data))
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
    inherited = {key: config[key] for key in DATA_KNOBS if key in config}
    model = parent.record.get("model") or {}
    inherited |= {key: tuple(model[key]) for key in ("mean", "std") if model.get(key)}
    if parent.record.get("stage") == "finetune-teacher":
        return inherited | {"teacher": str(parent.path)}
    inherited |= student_settings(parent)
    if any(entry["stage"] == "finetune-teacher" for entry in parent.record.get("parents", [])):
        inherited["teacher"] = str(parent.parent("finetune-teacher").path)
    return inherited


def student_settings(parent: RunDir) -> dict[str, Any]:
    """The knobs that describe the student of a run."""
    config = parent.config()
    return {key: config[key] for key in STUDENT_KNOBS if key in config}


def _with_recipe_of(parent: RunDir | None, options: RunOptions) -> RunOptions:
    """The options with the parent's recipe, unless one is named."""
    recipe = None if parent is None or options.recipe else parent.record.get("recipe")
    if recipe is None or (recipe not in recipe_names() and not Path(recipe).is_file()):
        return options
    return options.model_copy(update={"recipe": recipe})
