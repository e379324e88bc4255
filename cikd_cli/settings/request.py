"""What a command is asked: the options every stage shares, and the request made of them and the stage's own flags."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from cikd_cli.errors import CikdError
from cikd_cli.settings.configs import StageConfig
from cikd_cli.settings.knob import HARDWARE, OPTIMISATION, RUN, Role, knob, knobs_with
from cikd_cli.settings.stages import LONG, RUNS_DIR_VARIABLE, Kind

EPOCHS = "e"
_GPUS_OF_A_JOB = "--gpus-per-node says on how many GPUs"
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def parse_interval(text: str) -> tuple[float, str]:
    """`30s`, `10m`, `2h` or a bare number of minutes as (seconds, "s"); `5e` as (5, EPOCHS).

    Raises:
        ValueError: it is none of these, or nothing.
    """
    found = re.fullmatch(r"(\d+|\d*\.\d+)([smh]?)|(\d+)e", text)
    amount = float(found[1] or found[3]) if found else 0.0
    if found is None or amount == 0:
        raise ValueError("a time such as 30s, 10m or 2h (10 alone: minutes), or epochs such as 5e")
    return (amount, EPOCHS) if found[3] else (amount * _SECONDS[found[2] or "m"], "s")


class RunOptions(BaseModel):
    """How a command runs, as opposed to what it computes; never part of a recipe or of `config.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    # fmt: off
    recipe: str | None = knob(
        None, "Recipe name or .toml file.", panel=OPTIMISATION, first=True, unset="the data set's own",
        commands=LONG | Kind.BENCH)
    config: str | None = knob(
        None, "TOML file of settings, such as a run's config.toml.", panel=OPTIMISATION, metavar="FILE")
    set: tuple[str, ...] = knob(
        (), "Set any knob, e.g. betas=0.9,0.95; may be repeated.", panel=OPTIMISATION, first=True, metavar="KEY=VALUE")
    gpus: str | None = knob(
        None, "How many GPUs, 'all', a list such as 0,2, or 'cpu'.", panel=HARDWARE, first=True,
        metavar="N|all|0,2|cpu", unset="one if there is one", role=Role.RESUMABLE, in_a_job=_GPUS_OF_A_JOB)
    processes: int | None = knob(
        None, "Processes to share the work with --gpus cpu.", panel=HARDWARE, in_a_job=_GPUS_OF_A_JOB,
        role=Role.RESUMABLE, commands=LONG, ge=1)
    workers: int | None = knob(
        None, "Processes that load images.", panel=HARDWARE, unset="by the machine", role=Role.RESUMABLE,
        commands=LONG | Kind.ANALYSIS, ge=0)
    views: Literal["auto", "cpu", "device"] = knob(
        "auto",
        "cpu: image by image; device: a batch at a time, where the networks are; auto: the latter on a GPU that has"
        " room for the images, and of small images on a CPU without --workers.",
        panel=HARDWARE, role=Role.RESUMABLE, commands=LONG)
    runs_dir: str = knob(
        "runs", "Folder in which runs lie.", panel=RUN, metavar="DIR", variable=RUNS_DIR_VARIABLE, role=Role.RESUMABLE,
        commands=LONG | Kind.ANALYSIS)
    name: str | None = knob(
        None, "Name of the run's folder.", panel=RUN, first=True, unset="the next number, as in ali-001",
        commands=Kind.TRAINING)
    resume: str | None = knob(
        None, "Continue this run, in place.", panel=RUN, first=True, metavar="RUN", commands=Kind.TRAINING,
        in_a_job="--name with the name of that run goes on with it")
    save_every: str = knob(
        "10m", "Time between checkpoints (30s, 10m, 2h; 10: minutes), or epochs (5e).", panel=RUN,
        metavar="30s|10m|2h|5e", role=Role.RESUMABLE, commands=LONG)
    go_on: bool = knob(
        False,
        "With --name: go on with the run of that name if it is there, so that the same command can be given again.",
        panel=RUN, flag="--continue", commands=Kind.TRAINING)
    stall_after: str = knob(
        "10m",
        "Of several processes: end all, naming the one that the others wait for, when none has moved for this long.",
        panel=HARDWARE, metavar="30s|10m|2h", role=Role.RESUMABLE, commands=LONG)
    quiet: bool = knob(False, "Print warnings and errors only.", panel=RUN, role=Role.RESUMABLE)
    as_json: bool = knob(
        False, "Print the final summary as one JSON object.", panel=RUN, flag="--json", role=Role.RESUMABLE)
    dry_run: bool = knob(
        False, "Check everything, take two steps, print the plan, and stop.", panel=RUN, first=True,
        role=Role.RESUMABLE, commands=LONG, in_a_job="try it outside of a job")
    fresh: bool = knob(
        False, "Start every stage anew instead of continuing what is there.", panel=RUN, first=True,
        commands=Kind.CURRICULUM)
    # fmt: on

    @field_validator("save_every")
    @classmethod
    def _is_interval(cls, text: str) -> str:
        parse_interval(text)
        return text

    @field_validator("stall_after")
    @classmethod
    def _is_time(cls, text: str) -> str:
        try:
            unit = parse_interval(text)[1]
        except ValueError:
            unit = EPOCHS
        if unit == EPOCHS:
            raise ValueError("a time such as 30s, 10m or 2h (10 alone: minutes)")
        return text

    def going_on(self, **values: Any) -> "RunOptions":
        """The options that may be given with --resume, as far as they were, and `values`."""
        kept = {name: getattr(self, name) for name in resumable(self)}
        return RunOptions(**kept | values)

    @property
    def stall(self) -> float:
        """`stall_after` in seconds."""
        return parse_interval(self.stall_after)[0]


def resumable(options: RunOptions) -> set[str]:
    """The options that were given and may be given with --resume."""
    return options.model_fields_set & set(knobs_with(RunOptions, Role.RESUMABLE))


def gpu_numbers(text: str | None) -> tuple[int, ...] | None:
    """The GPUs that --gpus names, counted from 0; None for nothing, `all` and `cpu`.

    Raises:
        CikdError: it is none of these and no list of numbers, or a number twice.
    """
    if text in (None, "all", "cpu"):
        return None
    try:
        chosen = tuple(range(int(text))) if text.isdigit() else tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise CikdError(
            f"--gpus {text} is neither a number, 'all', a list like 0,2 nor 'cpu'.", hint="--gpus cpu or --gpus 1"
        ) from error
    if not chosen or len(set(chosen)) < len(chosen):
        raise CikdError(f"--gpus {text} names no GPU, or one twice.", hint="--gpus cpu, --gpus 1 or --gpus 0,1")
    return chosen


@dataclass(frozen=True)
class Request:
    """One command line: the stage, the config fields the user typed (parsed), the options, and the RUN arguments.

    curriculum: which step of which `cikd run` this is, so that a second `cikd run` finds what the first one made.
    several: the values of a knob typed as a list, a run each (`cikd ali --lob 7,8`); `flags` holds the first of them.
    words: the flags as typed, for the same command elsewhere.
    """

    stage: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    options: RunOptions = field(default_factory=RunOptions)
    argv: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    curriculum: str | None = None
    several: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resolved:
    """A complete config, where each value came from, and the recipe used.

    sources: field -> "default", "recipe NAME", "from RUN", "config FILE", "--set" or "flag".
    by_data: the fields that nobody has settled and that a small set lowers.
    """

    config: StageConfig
    sources: dict[str, str]
    recipe: str | None
    by_data: frozenset[str] = frozenset()
