"""How settings travel from `cikd run` to its stages, and from a run to its resume."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cikd_cli.errors import CikdError
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.inheritance import student_settings
from cikd_cli.settings.configs import StageConfig
from cikd_cli.settings.knob import Role, flag_name, knobs_with, parent_knobs
from cikd_cli.settings.methods import CurriculumConfig
from cikd_cli.settings.names import data_name
from cikd_cli.settings.parse import suggestion
from cikd_cli.settings.recipes import resolve, typed_values
from cikd_cli.settings.request import Request, Resolved, resumable
from cikd_cli.settings.stages import STAGES, STUDENT, TEACHER, Kind, curriculum

DEFAULT_DATA = "digits"  # embedded in scikit-learn: `cikd run` needs no download

HANDED_ON = Role.IMAGES | Role.INPUT | Role.STUDENT  # roles of the knobs that have one value in all stages


def stage_request(request: Request, command: str, **flags: Any) -> Request:
    """The request of one stage inside `cikd run`: the flags it has, its share of --set, and `flags` on top.

    --teacher names the pretrained network, so no stage gets it that takes the run of a teacher. A flag gives way to a
    --set for this stage alone.
    """
    own = {key: value for key, value in request.flags.items() if key in _for_all(command)}
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
    made: set[str] = set()
    sources: dict[str, str] = {}
    by_data: set[str] = set()
    handed: dict[str, Any] = {}
    recipe = before = None
    for command, stage in curriculum(Kind.TRAINING).items():
        share = stage_request(request, command)
        if start := _start(share, made):
            before, handed = str(start.path), handed | student_settings(start)
        resolved = resolve(
            stage.config,
            command,
            share.flags,
            options=share.options,
            inherited=handed,
            inherited_from=before,
            default_data=DEFAULT_DATA,
        )
        _refuse_other_parents(command, resolved, made)
        made |= stage.gives
        name = command.replace("-", "_")
        stages[name] = resolved.config
        sources |= {f"{name}.{key}": source for key, source in resolved.sources.items()}
        by_data |= {f"{name}.{key}" for key in resolved.by_data}
        again = set(knobs_with(stage.config, Role.IMAGES | Role.INPUT)) & set(knobs_with(stage.config, Role.PLACE))
        handed |= {key: getattr(resolved.config, key) for key in (*again, *handed)}
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
    student = config.ali.model_dump(include=set(knobs_with(type(config.ali), Role.STUDENT)), exclude_none=True)
    batch = taught[-1][1]
    steps = sum(epochs * (images // each) for epochs, each in taught)
    return {"distill": False, "batch_size": batch, "epochs": -(-steps // (images // batch)), **student}


def check_resume(request: Request, knobs: type[StageConfig]) -> None:
    """Raise CikdError if --resume is given together with anything but --epochs and how-to-run options."""
    resume = request.options.resume
    if resume is None:
        return
    fields, allowed = type(request.options).model_fields, {"resume", *resumable(request.options)}
    longer = knobs_with(knobs, Role.RESUMABLE)
    refused = [flag_name(key, knobs.model_fields[key]) for key in request.flags if key not in longer]
    refused += [flag_name(key, fields[key]) for key in request.options.model_fields_set - allowed]
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
        stages = curriculum(Kind.TRAINING)
        known = dict.fromkeys(name for stage in stages.values() for name in stage.config.model_fields)
        if dot and owner not in stages:
            raise CikdError(f"--set {text}: there is no stage named {owner!r}", hint=suggestion(owner, stages))
        if not dot and key not in known:
            raise CikdError(f"--set {text}: no stage has a knob named {key!r}", hint=suggestion(key, known))
        if not dot and not any(key in _for_all(name) for name in stages):
            raise CikdError(f"--set {text}: stages are given their parents one by one", hint=f"--set ali.{text}")
        if owner == command or (not dot and key in _for_all(command)):
            share.append(text)
    return tuple(share)


def _for_all(command: str) -> set[str]:
    """The knobs of a stage that are set for all stages together: those that name no run made on the way."""
    config_class = STAGES[command].config
    return set(config_class.model_fields) - {key for key, _ in parent_knobs(config_class)}


def _start(share: Request, made: set[str]) -> RunDir | None:
    """The run whose student a stage starts from, if one is named and none is made on the way."""
    config_class = STAGES[share.stage].config
    named = typed_values(config_class, share.stage, share.flags, share.options)
    for key, takes in parent_knobs(config_class):
        if takes == STUDENT and takes not in made and named.get(key):
            return RunDir.open(named[key], giving=STUDENT)
    return None


def _refuse_other_parents(command: str, resolved: Resolved, made: set[str]) -> None:
    """A stage of a curriculum stands on the runs of the stages before it."""
    config_class = type(resolved.config)
    for key, takes in parent_knobs(config_class):
        source = resolved.sources[key]
        if takes in made and (source == "--set" or source.startswith("config ")):
            named = getattr(resolved.config, key)
            alone = f"cikd {command} {flag_name(key, config_class.model_fields[key])} {named}"
            start = f", or --teacher {named} for what the teacher stage starts from" if takes == TEACHER else ""
            raise CikdError(
                f"cikd run gives its {command} stage the {takes} it has made, not {key} {named} ({source})",
                hint=alone + start,
            )


def _refuse_differences(stages: Mapping[str, StageConfig]) -> None:
    one_for_all = {
        key: None
        for config in stages.values()
        for key in knobs_with(type(config), HANDED_ON)
        if key not in knobs_with(type(config), Role.PLACE)
    }
    for key in one_for_all:
        values = {name: getattr(config, key) for name, config in stages.items() if key in type(config).model_fields}
        if len({data_name(value) if key == "data" else value for value in values.values()}) > 1:
            said = ", ".join(f"{name} {value}" for name, value in values.items())
            raise CikdError(
                f"All stages of a curriculum share {key}, but: {said}",
                hint=f"--set {key}=VALUE is for all of them, and so is [common] in a recipe",
            )
