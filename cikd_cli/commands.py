"""What the commands do: requests from flags, checked without torch, handed to the module of the stage."""

import importlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
import typer.main
from pydantic import BaseModel

from cikd_cli import elastic
from cikd_cli.chain import check_resume, resolve_curriculum
from cikd_cli.config import StageConfig
from cikd_cli.console import Reporter, show_output
from cikd_cli.errors import CikdError
from cikd_cli.files import to_json
from cikd_cli.flags import as_typed, command_function, settable
from cikd_cli.inheritance import resolve_stage, with_known_batch
from cikd_cli.knobs import nearest
from cikd_cli.options import Request, Resolved, flag_name
from cikd_cli.recipes import resolve
from cikd_cli.sentences import sentences
from cikd_cli.slurm import SlurmOptions, script
from cikd_cli.stages import STAGES, Stage


def build(action: str, command: str) -> Any:
    """The Typer command of a stage, with its flags; action: "run", "config" or "slurm"."""
    stage = STAGES[command]
    if action == "config":
        stage = replace(stage, several=None)
    act = {"run": _run_stage, "config": _show_config, "slurm": _show_job}[action]
    function = command_function(
        stage,
        lambda request, stray: act(stage, request, stray),
        guard=sentences,
        also=SlurmOptions if action == "slurm" else None,
    )
    app = typer.Typer(add_completion=False)
    app.command(command)(function)
    return typer.main.get_command(app)


def _run_stage(stage: Stage, request: Request, stray: list[str]) -> None:
    """Everything that can be refused without torch is refused first; then the stage's module is loaded."""
    elastic.check()
    _refuse_stray_words(stage, request, stray)
    if stage.arguments != "none" and not request.runs:
        raise CikdError(f"cikd {stage.command} needs a run", hint=f"{stage.examples[0]}; cikd runs lists the runs")
    check_resume(request, stage.config)
    _resolve(stage, request)
    if elastic.world_size() > 1 and not stage.trains:
        raise CikdError(f"cikd {stage.command} is not shared out among processes", hint="start it without torchrun")
    # Read when torch loads: threads that wait for each other soon sleep instead of spinning, which two small trainings
    # at once on two cores need badly (docs/benchmarks.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # processes that lose each other say so in pages of addresses
    summary = importlib.import_module(stage.module).run(request)
    if request.options.as_json and summary:
        show_output(to_json(summary))


def _show_config(stage: Stage, request: Request, stray: list[str]) -> None:
    _refuse_stray_words(stage, request, stray)
    resolved = _resolve_with_parent(stage, request)
    values = _flat(resolved.config)
    if request.options.as_json:
        knobs = {key: {"value": value, "source": resolved.sources.get(key, "default")} for key, value in values.items()}
        show_output(to_json({"stage": stage.command, "recipe": resolved.recipe, "config": knobs}))
        return
    rows = [[key, _shown(value), resolved.sources.get(key, "default")] for key, value in values.items()]
    Reporter("plain").table(("knob", "value", "from"), rows)


def _show_job(stage: Stage, request: Request, stray: list[str]) -> None:
    _refuse_stray_words(stage, request, stray, SlurmOptions)
    asked = {key: value for key, value in request.flags.items() if key in SlurmOptions.model_fields}
    request = replace(request, flags={key: value for key, value in request.flags.items() if key not in asked})
    _resolve(stage, request)
    show_output(script(request, asked, trains=stage.trains).rstrip("\n"))


def _resolve(stage: Stage, request: Request) -> Resolved:
    """What is typed over the recipe, without what a parent run hands down.

    Raises CikdError for --workers that no stage would use; `cikd run` has analyses that load images with them.
    """
    if stage.command == "run":
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
    if stage.command == "run":
        return resolve_curriculum(request)
    try:
        resolved, inherited = resolve_stage(stage.config, request)
        return with_known_batch(resolved, inherited, request.options.processes or 1)
    except CikdError:
        if request.flags.get("from_run") or request.flags.get("teacher"):
            raise
        return _resolve(stage, request)


def _flat(config: StageConfig, before: str = "") -> dict[str, object]:
    values: dict[str, object] = {}
    for key in type(config).model_fields:
        value = getattr(config, key)
        values |= _flat(value, f"{before}{key}.") if isinstance(value, StageConfig) else {before + key: value}
    return values


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(":".join(map(str, item)) if isinstance(item, tuple) else f"{item:g}" for item in value)
    return str(value)


def _refuse_stray_words(stage: Stage, request: Request, stray: list[str], also: type[BaseModel] | None = None) -> None:
    """Raise CikdError for words that belong to no flag, such as `epochs=10`; also: what `cikd slurm` asks beside."""
    words = [word for word in request.runs if "=" in word and not Path(word).exists()] + stray
    if not words:
        return
    every = f"cikd {'slurm ' if also else ''}{stage.command} --help shows the flags"
    key, equals, value = words[0].partition("=")
    if not equals:
        raise CikdError(f"{key!r} belongs to no flag", hint=every)
    fields = settable(stage, also)
    names = {flag_name(name, info).lstrip("-"): name for name, (_, info) in fields.items()}
    key = key.lstrip("-").replace("_", "-")
    near = nearest(key, names)
    if key in names:
        hint = as_typed(names[key], *fields[names[key]], value)
    elif near:
        hint = f"did you mean {as_typed(names[near], *fields[names[near]], value)}?"
    else:
        hint = every
    raise CikdError(f"{words[0]} is not a flag", hint=hint)
