"""Turns the fields of a stage config and of RunOptions into the options of a Typer command."""

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import replace
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cikd_cli.errors import CikdError
from cikd_cli.settings.configs import StageConfig
from cikd_cli.settings.knob import PANELS, RUN, Role, facts_of, flag_name, knobs_with
from cikd_cli.settings.parse import choices, kinds, parse, parse_list
from cikd_cli.settings.request import Request, RunOptions
from cikd_cli.settings.stages import Kind, Stage, curriculum

FEW = 12  # flags that need no choice of what to show first
_WORDS = {int: "INT", float: "FLOAT", str: "TEXT", bool: "true"}


def knobs_of(stage: Stage) -> dict[str, tuple[type[BaseModel], FieldInfo]]:
    """The fields of a stage that have a flag, with the model that declares them; `cikd run` has its stages' fields."""
    found: dict[str, tuple[type[BaseModel], FieldInfo]] = {}
    for part in curriculum(Kind.TRAINING).values() if stage.kind is Kind.CURRICULUM else ():
        common = {name: part.config.model_fields[name] for name in knobs_with(part.config, Role.COMMON)}
        found = {name: (part.config, _for_all_stages(info)) for name, info in common.items()} | found
    found |= {name: (stage.config, info) for name, info in stage.config.model_fields.items()}
    return {name: (owner, info) for name, (owner, info) in found.items() if facts_of(info).panel}


def _for_all_stages(info: FieldInfo) -> FieldInfo:
    """The field of a stage as `cikd run` has it: where stages differ, with a text of its own and no one default."""
    own = copy(info)
    if common := facts_of(info).common:
        own.description, own.default = common, None
    return own


def first_flags(stage: Stage, also: type[BaseModel] | None = None) -> frozenset[str]:
    """The fields whose flags `--help` shows: those of `also` and the name, else those marked, or all if few."""
    fields = _options_of(stage) | knobs_of(stage)
    if also:
        return frozenset({*also.model_fields, "name"} & {*also.model_fields, *fields})
    if len(fields) <= FEW:
        return frozenset(fields)
    return frozenset(name for name, (_, info) in fields.items() if facts_of(info).first)


def _options_of(stage: Stage) -> dict[str, tuple[type[BaseModel], FieldInfo]]:
    """The options that the stage takes, as `knobs_of` has its own fields."""
    options = RunOptions.model_fields
    return {name: (RunOptions, info) for name, info in options.items() if stage.kind & facts_of(info).commands}


def settable(stage: Stage, also: type[BaseModel] | None = None) -> dict[str, tuple[type[BaseModel], FieldInfo]]:
    """Every field that can be set on the stage's command line, by a flag or by --set; also: further flags."""
    models: list[type[BaseModel]] = [] if stage.kind is Kind.CURRICULUM else [stage.config]
    models += [also] if also else []
    fields = {name: (model, info) for model in models for name, info in model.model_fields.items()}
    return fields | knobs_of(stage) | _options_of(stage)


def as_typed(name: str, owner: type[BaseModel], info: FieldInfo, value: str) -> str:
    """What says on a command line that a field is `value`: `--epochs 10`, `--no-qk`, `--set keep_every=5`."""
    flag = flag_name(name, info)
    if not facts_of(info).panel:
        return f"--set {name}={value}"
    if kinds(owner, name) != (bool,):
        return f"{flag} {value}"
    if value.lower() not in ("false", "no", "off", "0"):
        return flag
    return f"leave {flag} out" if _is_plain(owner, info) else f"--no-{flag.removeprefix('--')}"


def command_function(
    stage: Stage,
    act: Callable[[Request, list[str]], None],
    *,
    guard: Callable[[], AbstractContextManager[None]],
    also: type[BaseModel] | None = None,
) -> Callable[..., None]:
    """A function for Typer whose parameters are the stage's flags, and those of the fields of `also`.

    It calls `act` with the request and the stray words; `guard` is entered around parsing and acting.
    """
    knobs, own = knobs_of(stage), also.model_fields if also else {}
    if also:
        knobs |= {name: (also, info) for name, info in own.items()}
    options = _options_of(stage)

    def command(**given: Any) -> None:
        context: typer.Context = given.pop("context")
        runs = given.pop("runs", None) or ()
        typed = {name: value for name, value in given.items() if value not in (None, [], ())}
        runs = (runs,) if isinstance(runs, str) else tuple(runs)
        with guard():
            _refuse_empty(options | knobs, typed, f"slurm {stage.command}" if also else stage.command)
            request = _request(stage, knobs, typed, runs)
            words = _words(options | knobs, {name: value for name, value in typed.items() if name not in own})
            act(replace(request, words=words), list(context.args))

    annotations: dict[str, Any] = {"context": typer.Context}
    if stage.arguments == "run":
        annotations["runs"] = Annotated[str | None, typer.Argument(metavar="RUN", help="Run directory.")]
    elif stage.arguments == "runs":
        argument = typer.Argument(metavar="RUN...", help=stage.argument_help)
        annotations["runs"] = Annotated[list[str] | None, argument]
    panels = {name: PANELS.index(facts_of(info).panel or RUN) for name, (_, info) in (options | knobs).items()}
    for name, (owner, info) in sorted((options | knobs).items(), key=lambda item: panels[item[0]]):
        annotations[name] = _annotation(name, owner, info)
    command.__annotations__ = annotations
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(name, annotation) for name, annotation in annotations.items()]
    )
    return command


def _refuse_empty(
    fields: Mapping[str, tuple[type[BaseModel], FieldInfo]], typed: Mapping[str, Any], command: str
) -> None:
    """Raise CikdError for a flag with nothing behind it, as an unset variable of the shell leaves it."""
    for name, value in typed.items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise CikdError(f"{flag_name(name, fields[name][1])} is empty", hint=f"cikd {command} --help")


def _request(
    stage: Stage,
    knobs: Mapping[str, tuple[type[BaseModel], FieldInfo]],
    typed: Mapping[str, Any],
    runs: tuple[str, ...],
) -> Request:
    several: dict[str, tuple[Any, ...]] = {}
    if stage.several and "," in typed.get(stage.several, ""):
        text = typed[stage.several]
        several[stage.several] = parse_list(stage.config, stage.several, text, command=stage.command)
        typed = {**typed, stage.several: text.partition(",")[0]}
    flags: dict[str, Any] = {}
    for config_class in dict.fromkeys(owner for owner, _ in knobs.values()):
        own = {name: typed[name] for name, (owner, _) in knobs.items() if owner is config_class and name in typed}
        command = stage.command if issubclass(config_class, StageConfig) else f"slurm {stage.command}"
        flags |= parse(config_class, own, command=command)
    options = {name: value for name, value in typed.items() if name not in knobs}
    parsed = RunOptions(**parse(RunOptions, options, command=stage.command))
    return Request(stage.command, flags, parsed, tuple(sys.argv), runs, several=several)


def _words(fields: Mapping[str, tuple[type[BaseModel], FieldInfo]], typed: Mapping[str, Any]) -> tuple[str, ...]:
    """The flags that make a stage's command again, as they were typed."""
    words: list[str] = []
    for name, value in typed.items():
        flag = flag_name(name, fields[name][1])
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag.removeprefix('--')}")
        else:
            words += [word for item in (value if isinstance(value, list) else [value]) for word in (flag, item)]
    return tuple(words)


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if name == "context" else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _annotation(name: str, owner: type[BaseModel], info: FieldInfo) -> Any:
    """The parameter type Typer reads; None means "not given", so the real default goes into the help text."""
    flag = flag_name(name, info)
    settings: dict[str, Any] = {"help": _help(info), "show_default": False, "rich_help_panel": facts_of(info).panel}
    if kinds(owner, name) == (bool,):
        declaration = flag if _is_plain(owner, info) else f"{flag}/--no-{flag.removeprefix('--')}"
        return Annotated[bool | None, typer.Option(declaration, **settings)]
    settings["metavar"] = metavar(name, owner)
    words = choices(owner, name)
    if words:
        settings["autocompletion"] = lambda incomplete: [word for word in words if word.startswith(incomplete)]
    if variable := facts_of(info).variable:
        settings["envvar"] = variable
    repeated = owner is RunOptions and info.default == ()  # --set
    kind = list[str] | None if repeated else str | None
    return Annotated[kind, typer.Option(flag, **settings)]


def _is_plain(owner: type[BaseModel], info: FieldInfo) -> bool:
    """Whether a switch has no --no- beside it."""
    return owner is RunOptions or facts_of(info).plain


def metavar(name: str, owner: type[BaseModel]) -> str:
    """What stands for the value of a field: `INT`, `NAME|DIR`."""
    if own := facts_of(owner.model_fields[name]).metavar:
        return own
    words = choices(owner, name)
    return "|".join(words) if words else _WORDS.get(kinds(owner, name)[0], "TEXT")


def _help(info: FieldInfo) -> str:
    default = facts_of(info).unset if info.default is None else info.default
    if default is None or default is False or default == ():  # not worth a word
        return info.description or ""
    shown = "on" if default is True else f"{default:g}" if isinstance(default, float) else default
    return f"{info.description} [default: {shown}]"
