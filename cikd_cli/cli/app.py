"""The `cikd` command, built from STAGES.

A list of commands is shown without their flags, which come from the knobs and take time; nothing here imports torch.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cikd_cli import __version__
from cikd_cli.cli import panels
from cikd_cli.cli.exits import sentences
from cikd_cli.console import reporter, show_output, show_starting
from cikd_cli.errors import CikdError
from cikd_cli.files import to_json
from cikd_cli.processes import environment
from cikd_cli.settings.stages import LONG, RUNS_DIR_VARIABLE, STAGES, Stage

CURRICULUM_PANEL = "The curriculum"
RESULTS_PANEL = "Results"
_UsageError: Any = typer.BadParameter.__base__  # wherever this version of Typer declares it
_TELL_NOTHING = frozenset({"-h", "--help", "--help-all", "--quiet", "--json"})
_CONTEXT = {"allow_extra_args": True, "help_option_names": ["-h", "--help"]}


class _InBoxes:
    """Help that looks the same for every command and every list of commands; plain, as Typer's is slow to load."""

    first: frozenset[str] | None = None  # the parameters that --help shows; None: all
    more = ""  # what --help adds below its boxes when it leaves flags out

    def format_help(self, ctx: Any, formatter: Any) -> None:
        command: Any = self
        boxes, left_out = panels.flag_panels(command, ctx, self.first)
        if left_out:
            boxes["Options"] = [*boxes.get("Options", ()), ("--help-all", "Show every flag.")]
        lists = command.command_panels(ctx) if isinstance(self, _Group) else {}
        note = f"{left_out} flags more: {ctx.command_path} --help-all. {self.more}" if left_out else ""
        formatter.write(panels.page(ctx.get_usage(), command.help or "", {**lists, **boxes}, note.strip()))


class _Group(_InBoxes, TyperGroup):
    """Commands under their panels; unknown flags and missing values are told as everything else is."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **settings: Any) -> Any:
        typed = tuple(args)
        is_stage = parent is None and typed[:1] and typed[0] in STAGES
        if is_stage and not _TELL_NOTHING.intersection(typed) and environment.speaks():
            show_starting()  # before Typer reads the words, which loads pydantic
        with sentences():
            try:
                args = ["--help"] if typed[:1] == ("--help-all",) else args
                return super().make_context(info_name, args, parent, **settings)
            except _UsageError as error:
                if not hasattr(error, "option_name") or not typed[0].startswith("-"):
                    raise
                from cikd_cli.cli.unknown import flag_before_command

                path = error.ctx.command_path
                raise flag_before_command(error.option_name, typed, list(self.commands), path) from None

    def invoke(self, ctx: Any) -> Any:
        with sentences():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: Any) -> Any:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing and not args[0].startswith("-"):
            from cikd_cli.cli.unknown import unknown_command

            raise unknown_command(args[0], self.list_commands(ctx), ctx.command_path, args)
        return super().resolve_command(ctx, args)

    def command_panels(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """The commands, each with its first sentence, by panel."""
        found: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            panel = command.rich_help_panel
            found.setdefault(panel if isinstance(panel, str) else "Commands", []).append(
                (name, command.get_short_help_str(limit=1000))
            )
        return found


class _Command(_InBoxes, TyperCommand):
    """A command; --help-all is --help with all flags."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **settings: Any) -> Any:
        if "--help-all" in args:
            self.first, args = None, ["--help"]
        return super().make_context(info_name, args, parent, **settings)


class _StageCommand(_Command):
    """The command of a stage, which gets its flags when it is called or asked for help."""

    action: str

    @staticmethod
    def examples(stage: Stage) -> tuple[str, ...]:
        """Command lines for the help."""
        return stage.examples

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **settings: Any) -> Any:
        from cikd_cli.cli.commands import build, unknown_flag_of

        whole, self.first = build(self.action, str(self.name))
        self.params, self.callback = whole.params, whole.callback
        knobs = f"Every knob: cikd config {self.name}; --set sets any of them."
        self.more = knobs if self.action != "slurm" else f"They are those of cikd {self.name}."
        typed = tuple(args)
        _refuse_second_data(typed, f"cikd {self.name}")
        try:
            return super().make_context(info_name, args, parent, **settings)
        except _UsageError as error:
            if type(error).__name__ != "NoSuchOption":
                raise
            raise unknown_flag_of(self.action, str(self.name), error.option_name, typed) from None


def _refuse_second_data(typed: tuple[str, ...], command: str) -> None:
    """Raise CikdError for --data given twice: of other flags the last counts, but images would be passed over."""
    if sum(word.partition("=")[0] == "--data" for word in typed) > 1:
        raise CikdError(
            "--data is given twice, and one set of images is all that is read", hint=f"{command} --data DIR"
        )


class _Run(_StageCommand):
    action = "run"


class _Config(_StageCommand):
    action = "config"

    @staticmethod
    def examples(stage: Stage) -> tuple[str, ...]:
        return f"cikd config {stage.command}", f"cikd config {stage.command} --set KEY=VALUE --json"


class _Slurm(_StageCommand):
    action = "slurm"

    @staticmethod
    def examples(stage: Stage) -> tuple[str, ...]:
        named = " --name NAME" if stage.trains else ""
        return (f"cikd slurm {stage.command}{named} --gpus-per-node 4 > job.sbatch && sbatch job.sbatch",)


_LIST: dict[str, Any] = {"cls": _Group, "no_args_is_help": True, "rich_markup_mode": None}
app = typer.Typer(
    name="cikd",
    help="Small Vision Transformers from small image sets: a big teacher's locality first, its logits second.\n\n"
    "ALI, LOB, QK and other words: docs/glossary.md on the project's page.",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    **_LIST,
)
config_app = typer.Typer(
    name="config", help="Show every knob of a stage: its value, and where the value comes from.", **_LIST
)
slurm_app = typer.Typer(
    name="slurm",
    help="Print a batch script for SLURM that starts a stage, and goes on with its run when started again.\n\n"
    "cikd slurm ali --data cifar100 --name cifar --gpus-per-node 4 > job.sbatch && sbatch job.sbatch",
    **_LIST,
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


def _add(target: typer.Typer, stage: Stage, kind: type[_StageCommand], panel: str | None) -> None:
    help_text = f"{stage.summary}\n\n" + "\n".join(kind.examples(stage))

    def with_flags() -> None:
        """What is called in the end; see `_StageCommand`."""

    target.command(stage.command, cls=kind, help=help_text, rich_help_panel=panel, context_settings=_CONTEXT)(
        with_flags
    )


for _stage in STAGES.values():
    _learns = bool(_stage.kind & LONG)
    _add(app, _stage, _Run, CURRICULUM_PANEL if _learns else RESULTS_PANEL)
    _add(config_app, _stage, _Config, None)
    if _learns:
        _add(slurm_app, _stage, _Slurm, None)


@app.command("runs", cls=_Command, rich_help_panel=RESULTS_PANEL, context_settings=_CONTEXT)
def show_runs(
    context: typer.Context,
    runs_dir: Annotated[
        str,
        typer.Option(
            "--runs-dir", metavar="DIR", envvar=RUNS_DIR_VARIABLE, help="Folder in which runs lie. [default: runs]"
        ),
    ] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print the runs as one JSON object.")] = False,
) -> None:
    """The tree of runs: which came from which, with stage, status and score."""
    with sentences():
        from cikd_cli.runs import lineage

        if context.args:
            from cikd_cli.cli.unknown import stray_beside_runs

            raise stray_beside_runs(context.args[0], Path(runs_dir))
        if not runs_dir:
            raise CikdError("--runs-dir is empty", hint="cikd runs --help")
        if Path(runs_dir).is_file():
            raise CikdError(f"{runs_dir} is a file, not a folder of runs", hint="cikd runs --runs-dir DIR")
        runs = lineage.all_runs(Path(runs_dir))
        for path, error in lineage.damaged_runs(Path(runs_dir)):
            reporter(quiet=False, as_json=as_json).warn(f"{path} is left out: {error.message}")
        if as_json:
            show_output(to_json({"runs": lineage.summary(runs)}))
        elif runs:
            reporter(quiet=False, as_json=False).table(lineage.COLUMNS, lineage.rows(runs))
        else:
            reporter(quiet=False, as_json=False).line(f"no runs in {runs_dir}; cikd run makes the first ones")


app.add_typer(config_app, rich_help_panel=RESULTS_PANEL)
app.add_typer(slurm_app, rich_help_panel=CURRICULUM_PANEL)
