"""What the commands do: requests from flags, checked without torch, handed to the module of the stage."""

import importlib
import os
from dataclasses import replace
from typing import Any

import typer
import typer.main
from pydantic.fields import FieldInfo

from cikd_cli.cli import early
from cikd_cli.cli.exits import loading, sentences
from cikd_cli.cli.flags import command_function, first_flags
from cikd_cli.cli.panels import table
from cikd_cli.cli.slurm import SlurmOptions, script
from cikd_cli.cli.unknown import refuse_stray_words, unknown_flag
from cikd_cli.console import Reporter, show_output
from cikd_cli.errors import CikdError
from cikd_cli.files import to_json
from cikd_cli.processes import environment
from cikd_cli.runs.chain import check_resume, resolve_curriculum
from cikd_cli.runs.inheritance import resolve_stage, with_known_batch
from cikd_cli.settings.configs import StageConfig
from cikd_cli.settings.knob import facts_of, parent_knobs
from cikd_cli.settings.recipes import resolve
from cikd_cli.settings.request import Request, Resolved
from cikd_cli.settings.stages import STAGES, Kind, Stage


def build(action: str, command: str) -> tuple[Any, frozenset[str]]:
    """The Typer command of a stage, with its flags, and which of them `--help` shows.

    action: "run", "config" or "slurm".
    """
    stage = STAGES[command]
    if action == "config":
        stage = replace(stage, several=None)
    also = SlurmOptions if action == "slurm" else None
    act = {"run": _run_stage, "config": _show_config, "slurm": _show_job}[action]
    function = command_function(stage, lambda request, stray: act(stage, request, stray), guard=sentences, also=also)
    app = typer.Typer(add_completion=False)
    app.command(command)(function)
    return typer.main.get_command(app), first_flags(stage, also)


def unknown_flag_of(action: str, command: str, flag: str, words: tuple[str, ...]) -> CikdError:
    """The error for a flag that the command of a stage has not; words: all that were typed behind the command."""
    path = f"cikd {command}" if action == "run" else f"cikd {action} {command}"
    return unknown_flag(STAGES[command], flag, words, path, SlurmOptions if action == "slurm" else None)


def _run_stage(stage: Stage, request: Request, stray: list[str]) -> None:
    """Everything that can be refused without torch is refused first; then the stage's module is loaded."""
    environment.check()
    refuse_stray_words(stage, request, stray, None)
    if stage.arguments != "none" and not request.runs:
        raise CikdError(f"cikd {stage.command} needs a run", hint=f"{stage.examples[0]}; cikd runs lists the runs")
    check_resume(request, stage.config)
    request = early.with_runs(stage, request)
    early.check(stage, request, _resolve(stage, request))
    if environment.world_size() > 1 and not stage.trains:
        raise CikdError(f"cikd {stage.command} is not shared out among processes", hint="start it without torchrun")
    # Read when torch loads: threads that wait for each other soon sleep instead of spinning, which two small trainings
    # at once on two cores need badly (docs/benchmarks.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a lost connection is told in pages of stack addresses
    with loading():
        module = importlib.import_module(stage.module)
    summary = module.run(request)
    if request.options.as_json and summary:
        show_output(to_json(summary))


def _show_config(stage: Stage, request: Request, stray: list[str]) -> None:
    refuse_stray_words(stage, request, stray, None)
    request = early.with_runs(stage, replace(request, runs=()))
    resolved = _resolve_with_parent(stage, request)
    knobs = _flat(resolved.config)
    sources = {key: resolved.sources.get(key, "default") for key in knobs}
    if request.options.as_json:
        shown = {key: {"value": value, "source": sources[key]} for key, (value, _) in knobs.items()}
        show_output(to_json({"stage": stage.command, "recipe": resolved.recipe, "config": shown}))
        return
    rows = [[key, _shown(value), sources[key], _about(info)] for key, (value, info) in knobs.items()]
    out = Reporter("plain")
    for line in table(("knob", "value", "from", "what it is"), rows):
        out.line(line)


def _show_job(stage: Stage, request: Request, stray: list[str]) -> None:
    refuse_stray_words(stage, request, stray, SlurmOptions)
    asked = {key: value for key, value in request.flags.items() if key in SlurmOptions.model_fields}
    request = replace(request, flags={key: value for key, value in request.flags.items() if key not in asked})
    _resolve(stage, request)
    show_output(script(request, asked, trains=stage.trains).rstrip("\n"))


def _resolve(stage: Stage, request: Request) -> Resolved:
    """What is typed over the recipe, without what a parent run hands down.

    Raises CikdError for --workers that no stage would use; `cikd run` has analyses that load images with them.
    """
    if stage.kind is Kind.CURRICULUM:
        return resolve_curriculum(request)
    options = request.options
    if options.views == "device" and options.workers:
        raise CikdError(
            f"--views device makes views in the training process, so --workers {options.workers} would have no work",
            hint=f"drop --workers {options.workers}, or --views cpu",
        )
    return resolve(stage.config, stage.command, request.flags, options=request.options)


def _resolve_with_parent(stage: Stage, request: Request) -> Resolved:
    """As the stage itself does it; but a teacher that is neither named nor there yet is no error."""
    if stage.kind is Kind.CURRICULUM:
        return resolve_curriculum(request)
    try:
        resolved, inherited = resolve_stage(stage.config, request)
        return with_known_batch(resolved, inherited, request.options.processes or 1)
    except CikdError:
        if any(request.flags.get(key) for key, _ in parent_knobs(stage.config)):
            raise
        return _resolve(stage, request)


def _flat(config: StageConfig, before: str = "") -> dict[str, tuple[object, FieldInfo]]:
    """Every knob by its name, dotted within a stage of `cikd run`, with its value and its declaration."""
    knobs: dict[str, tuple[object, FieldInfo]] = {}
    for key, info in type(config).model_fields.items():
        value = getattr(config, key)
        knobs |= _flat(value, f"{before}{key}.") if isinstance(value, StageConfig) else {before + key: (value, info)}
    return knobs


def _about(info: FieldInfo) -> str:
    unset = facts_of(info).unset
    return f"{info.description} [default: {unset}]" if unset else info.description or ""


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(":".join(map(str, item)) if isinstance(item, tuple) else f"{item:g}" for item in value)
    return str(value)
