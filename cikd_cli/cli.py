"""The `cikd` command, built from STAGES: parses, checks, loads the stage's module, and says what went wrong.

Nothing here imports torch: help, typing mistakes and `cikd runs` answer at once.
"""

import errno
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from typer.core import TyperGroup

from cikd_cli import __version__, elastic, lineage
from cikd_cli.chain import check_resume, resolve_curriculum
from cikd_cli.config import CurriculumConfig, StageConfig, TrainingConfig
from cikd_cli.console import Reporter, reporter, show_error, show_output
from cikd_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, CikdError
from cikd_cli.files import disk_error, to_json
from cikd_cli.flags import RUNS_DIR_VARIABLE, command_function, knobs_of
from cikd_cli.inheritance import resolve_stage
from cikd_cli.knobs import nearest
from cikd_cli.lineage import all_runs, damaged_runs
from cikd_cli.options import Request, Resolved, flag_name
from cikd_cli.recipes import resolve
from cikd_cli.slurm import SlurmOptions, script
from cikd_cli.stages import STAGES, Stage

CURRICULUM_PANEL = "The curriculum"
RESULTS_PANEL = "Results"
_CONTEXT = {"allow_extra_args": True, "help_option_names": ["-h", "--help"]}

_UsageError: Any = typer.BadParameter.__base__  # wherever this version of Typer declares it


class _Group(TyperGroup):
    """Commands whose unknown flags and missing values are told as everything else is."""

    def make_context(self, *words: Any, **settings: Any) -> Any:
        with _sentences():
            return super().make_context(*words, **settings)

    def invoke(self, ctx: Any) -> Any:
        with _sentences():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Group,
    name="cikd",
    help="Small Vision Transformers from small image sets: a big teacher's locality first, its logits second.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(
    name="config",
    help="Show every knob of a stage: its value, and where the value comes from.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
slurm_app = typer.Typer(
    name="slurm",
    help="Print a batch script for SLURM that starts a stage, and goes on with its run when started again.\n\n"
    "  cikd slurm ali --data cifar100 --name cifar --gpus-per-node 4 > job.sbatch && sbatch job.sbatch",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        show_output(f"cikd {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """The options before a command."""
    del version  # its callback has acted on it


def _run_stage(stage: Stage, request: Request, stray: list[str]) -> None:
    """Everything that can be refused without torch is refused first; then the stage's module is loaded."""
    _refuse_stray_words(stage, request, stray)
    if stage.arguments != "none" and not request.runs:
        raise CikdError(f"cikd {stage.command} needs a run", hint=f"{stage.examples[0]}; cikd runs lists the runs")
    check_resume(request, stage.config)
    _resolve(stage, request)
    if elastic.world_size() > 1 and not issubclass(stage.config, TrainingConfig):
        raise CikdError(f"cikd {stage.command} is not shared out among processes", hint="start it without torchrun")
    # Read when torch loads: threads that wait for each other soon sleep instead of spinning. Two small trainings at
    # once on two cores took 11 s with it and over 60 s without; alone, nothing changes.
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
    _refuse_stray_words(stage, request, stray)
    asked = {key: value for key, value in request.flags.items() if key in SlurmOptions.model_fields}
    request = replace(request, flags={key: value for key, value in request.flags.items() if key not in asked})
    _resolve(stage, request)
    show_output(script(request, asked, trains=issubclass(stage.config, TrainingConfig)).rstrip("\n"))


def _resolve(stage: Stage, request: Request) -> Resolved:
    """What is typed over the recipe, without what a parent run hands down."""
    if stage.command == "run":
        return resolve_curriculum(request)
    return resolve(stage.config, stage.command, request.flags, options=request.options)


def _resolve_with_parent(stage: Stage, request: Request) -> Resolved:
    """As the stage itself does it; but a teacher that is neither named nor there yet is no error."""
    if stage.command == "run":
        return resolve_curriculum(request)
    try:
        return resolve_stage(stage.config, request)[0]
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


def _refuse_stray_words(stage: Stage, request: Request, stray: list[str]) -> None:
    """Raise CikdError for words that belong to no flag, such as `epochs=10`."""
    runs = [word for word in request.runs if "=" in word and not Path(word).exists()]
    for word in [*runs, *stray]:
        key, equals, value = word.partition("=")
        if not equals:
            raise CikdError(f"{word!r} belongs to no flag", hint=f"cikd {stage.command} --help shows the flags")
        key = key.lstrip("-").replace("-", "_")
        flags = {name: flag_name(name, info) for name, (_, info) in knobs_of(stage).items()}
        if key in flags:
            hint = f"{flags[key]} {value}"
        elif key in stage.config.model_fields:
            hint = f"--set {key}={value}"
        else:
            found = nearest(key, flags)
            hint = f"did you mean {flags[found]} {value}?" if found else f"cikd {stage.command} --help shows the flags"
        raise CikdError(f"{word} is not a flag", hint=hint)


@contextmanager
def _sentences() -> Iterator[None]:
    """Turn what a user can act on into a sentence and an exit code; anything else is our bug and stays a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        show_error(CikdError("Interrupted"))
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except Exception as error:
        sentence = _as_sentence(error)
        if sentence is None:
            raise
        if elastic.rank() == 0 and not sentence.shown:  # of several processes one speaks
            show_error(sentence)
        raise typer.Exit(sentence.exit_code) from None


def _as_sentence(error: Exception) -> CikdError | None:
    if isinstance(error, CikdError):
        return error
    if isinstance(error, _UsageError) and type(error).__name__ != "NoArgsIsHelpError":  # that one is the help itself
        where = error.ctx.command_path if error.ctx else "cikd"
        return CikdError(error.format_message(), hint=f"{where} --help")
    text = str(error)
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
        or "can't allocate memory" in text
    ):
        hint = "use a smaller --batch-size, or split each batch with --accumulate 2"
        return CikdError(
            f"Out of memory: {text.splitlines()[0] if text else 'no room'}", hint=hint, exit_code=EXIT_FAILED
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return disk_error(error, Path(str(error.filename or "the run")))
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return CikdError(f"{error.filename} is too long for the name of a file")
    if "No space left on device" in text:  # from safetensors, which raises its own type
        return disk_error(OSError(errno.ENOSPC, text), Path("the run"))
    return None


def _add(
    target: typer.Typer,
    stage: Stage,
    act: Callable[[Stage, Request, list[str]], None],
    panel: str | None,
    also: type[BaseModel] | None = None,
) -> None:
    help_text = f"{stage.summary}\n\n" + "\n".join(f"  {example}" for example in stage.examples)
    function = command_function(stage, lambda request, stray: act(stage, request, stray), guard=_sentences, also=also)
    target.command(stage.command, help=help_text, rich_help_panel=panel, context_settings=_CONTEXT)(function)


for _stage in STAGES.values():
    _trains = issubclass(_stage.config, TrainingConfig | CurriculumConfig)
    _add(app, _stage, _run_stage, CURRICULUM_PANEL if _trains else RESULTS_PANEL)
    _add(config_app, replace(_stage, several=None), _show_config, None)
    if _trains:
        _add(slurm_app, _stage, _show_job, None, also=SlurmOptions)


@app.command("runs", rich_help_panel=RESULTS_PANEL)
def show_runs(
    runs_dir: Annotated[
        str, typer.Option("--runs-dir", metavar="DIR", envvar=RUNS_DIR_VARIABLE, help="Folder in which runs lie.")
    ] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print the runs as one JSON object.")] = False,
) -> None:
    """The tree of runs: which came from which, with stage, status and score."""
    with _sentences():
        runs = all_runs(Path(runs_dir))
        for path, error in damaged_runs(Path(runs_dir)):
            reporter(quiet=False, as_json=as_json).warn(f"{path} is left out: {error.message}")
        if as_json:
            show_output(to_json({"runs": lineage.summary(runs)}))
        elif runs:
            reporter(quiet=False, as_json=False).table(lineage.COLUMNS, lineage.rows(runs))
        else:
            reporter(quiet=False, as_json=False).line(f"no runs in {runs_dir}; cikd run makes the first ones")


app.add_typer(config_app, rich_help_panel=RESULTS_PANEL)
app.add_typer(slurm_app, rich_help_panel=CURRICULUM_PANEL)
