"""How settings travel from `cikd run` to its stages, and from a run to its resume."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cikd_cli.errors import CikdError
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.inheritance import DATA_KNOBS, STUDENT_KNOBS, student_settings
from cikd_cli.settings.configs import CurriculumConfig, StageConfig
from cikd_cli.settings.names import data_name
from cikd_cli.settings.parse import suggestion
from cikd_cli.settings.recipes import MAY_DIFFER, SECTIONS, resolve, typed_values
from cikd_cli.settings.request import Request, Resolved, flag_name

DEFAULT_DATA = "digits"  # embedded in scikit-learn: `cikd run` needs no download

# The flags of `cikd run`; each goes to every stage that has the knob, except --teacher (see `stage_request`).
CURRICULUM_FLAGS = (
    "data",
    "data_root",
    "download",
    "fraction",
    "val",
    "image_size",
    "skip_unreadable",
    "teacher",
    "teacher_arch",
    "student",
    "lob",
    "epochs",
    "batch_size",
    "precision",
    "seed",
)

# Of those whose defaults differ from stage to stage.
CURRICULUM_HELP = {
    "epochs": "Passes over the training images, in every stage. One stage: --set ali.epochs=100",
    "batch_size": "Images a step, in every stage. One stage: --set lm.batch_size=64",
}

# What a stage hands to the next, and is therefore one value for all; the rest of it a later stage may be told again.
_ONE_FOR_ALL = tuple(key for key in (*DATA_KNOBS, *STUDENT_KNOBS) if key not in MAY_DIFFER)
_TOLD_AGAIN = tuple(key for key in DATA_KNOBS if key in MAY_DIFFER)
_MADE_ON_THE_WAY = {"ali": ("teacher",), "lm": ("teacher", "from_run")}
_RESUME_FLAGS = frozenset({"epochs"})
RESUME_OPTIONS = frozenset(
    {
        "resume",
        "gpus",
        "processes",
        "workers",
        "views",
        "runs_dir",
        "save_every",
        "stall_after",
        "quiet",
        "as_json",
        "dry_run",
    }
)


def stage_request(request: Request, command: str, **flags: Any) -> Request:
    """The request of one stage inside `cikd run`: the flags it has, its share of --set, and `flags` on top.

    command: "finetune-teacher", "ali" or "lm". --teacher names the pretrained network,
    so only finetune-teacher gets it. A flag gives way to a --set for this stage alone.
    """
    knobs = SECTIONS[command].model_fields
    own = {key: value for key, value in request.flags.items() if key in knobs}
    if command != "finetune-teacher":
        own.pop("teacher", None)
    for text in request.options.set:
        owner, dot, name = text.partition("=")[0].strip().rpartition(".")
        if dot and owner.replace("_", "-") == command:
            own.pop(name.replace("-", "_"), None)  # `--set ali.epochs=100` is narrower than `--epochs 10`
    options = request.options.model_copy(
        update={"set": _share(request.options.set, command), "name": None, "resume": None, "fresh": False}
    )
    return replace(request, stage=command, flags=own | flags, options=options, runs=())


def resolve_curriculum(request: Request) -> Resolved:
    """The CurriculumConfig of `cikd run`, with sources by dotted name (`ali.epochs`), and the recipe.

    Raises:
        CikdError: as `resolve`, and when a stage contradicts what the one before it will hand down.
    """
    stages: dict[str, StageConfig] = {}
    sources: dict[str, str] = {}
    by_data: set[str] = set()
    handed: dict[str, Any] = {}
    recipe = before = None
    for command, config_class in SECTIONS.items():
        share = stage_request(request, command)
        if start := _start(share):
            before, handed = str(start.path), handed | student_settings(start)
        resolved = resolve(
            config_class,
            command,
            share.flags,
            options=share.options,
            inherited=handed,
            inherited_from=before,
            default_data=DEFAULT_DATA,
        )
        _refuse_other_parents(command, resolved)
        name = command.replace("-", "_")
        stages[name] = resolved.config
        sources |= {f"{name}.{key}": source for key, source in resolved.sources.items()}
        by_data |= {f"{name}.{key}" for key in resolved.by_data}
        handed |= {key: getattr(resolved.config, key) for key in (*_TOLD_AGAIN, *handed)}
        recipe, before = resolved.recipe, command
    _refuse_differences(stages)
    baseline = request.flags.get("baseline", False)
    sources["baseline"] = "flag" if "baseline" in request.flags else "default"
    config = CurriculumConfig.model_validate({**stages, "baseline": baseline})
    return Resolved(config, sources, recipe, frozenset(by_data))


def baseline_settings(config: CurriculumConfig, images: int, taught: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """What LM is told for the baseline: its student and batch, labels only, and as many steps as ALI and LM together.

    images: of an epoch. taught: (epochs, batch) of ALI and of LM, as the data have settled them.
    """
    student = config.ali.model_dump(include=set(STUDENT_KNOBS), exclude_none=True)
    batch = taught[-1][1]
    steps = sum(epochs * (images // each) for epochs, each in taught)
    return {"distill": False, "batch_size": batch, "epochs": -(-steps // (images // batch)), **student}


def check_resume(request: Request, knobs: type[StageConfig]) -> None:
    """Raise CikdError if --resume is given together with anything but --epochs and how-to-run options."""
    resume = request.options.resume
    if resume is None:
        return
    fields = type(request.options).model_fields
    refused = [flag_name(key, knobs.model_fields[key]) for key in request.flags if key not in _RESUME_FLAGS]
    refused += [flag_name(key, fields[key]) for key in request.options.model_fields_set if key not in RESUME_OPTIONS]
    if refused:
        raise CikdError(
            f"--resume continues {resume} with its own settings, so {', '.join(sorted(refused))} cannot be given",
            hint=f"cikd {request.stage} --resume {resume}",
        )


def _share(texts: tuple[str, ...], command: str) -> tuple[str, ...]:
    """The --set values of `cikd run` for one stage: its own (`ali.epochs=1`), and those for all that have the knob."""
    share = []
    for text in texts:
        owner, dot, _ = text.partition("=")[0].rpartition(".")
        key = text.partition("=")[0].strip().rpartition(".")[2].replace("-", "_")
        owner = owner.strip().replace("_", "-")
        if dot and owner not in SECTIONS:
            raise CikdError(f"--set {text}: there is no stage named {owner!r}", hint=suggestion(owner, SECTIONS))
        if not dot and not any(key in config.model_fields for config in SECTIONS.values()):
            known = dict.fromkeys(name for config in SECTIONS.values() for name in config.model_fields)
            raise CikdError(f"--set {text}: no stage has a knob named {key!r}", hint=suggestion(key, known))
        for_all = not dot and (key != "teacher" or command == "finetune-teacher")  # as the flag
        if owner == command or (for_all and key in SECTIONS[command].model_fields):
            share.append(text)
    return tuple(share)


def _start(share: Request) -> RunDir | None:
    """The run whose student the ALI stage starts from, if one is named."""
    if share.stage != "ali":
        return None
    named = typed_values(SECTIONS["ali"], "ali", share.flags, share.options).get("from_run")
    return RunDir.open(named, stages=("ali", "lm")) if named else None


def _refuse_other_parents(command: str, resolved: Resolved) -> None:
    """A stage of a curriculum stands on the run of the stage before it."""
    for key in _MADE_ON_THE_WAY.get(command, ()):
        source = resolved.sources[key]
        if source == "--set" or source.startswith("config "):
            named = getattr(resolved.config, key)
            flag = flag_name(key, type(resolved.config).model_fields[key])
            raise CikdError(
                f"cikd run gives its {command} stage the {'teacher' if key == 'teacher' else 'ali run'} it has made, "
                f"not {key} {named} ({source})",
                hint=f"cikd {command} {flag} {named}, or --teacher {named} for what the teacher stage starts from"
                if key == "teacher"
                else f"cikd {command} {flag} {named}",
            )


def _refuse_differences(stages: Mapping[str, StageConfig]) -> None:
    for key in _ONE_FOR_ALL:
        values = {name: getattr(config, key) for name, config in stages.items() if key in type(config).model_fields}
        if len({data_name(value) if key == "data" else value for value in values.values()}) > 1:
            said = ", ".join(f"{name} {value}" for name, value in values.items())
            raise CikdError(
                f"All stages of a curriculum share {key}, but: {said}",
                hint=f"--set {key}=VALUE is for all of them, and so is [common] in a recipe",
            )
