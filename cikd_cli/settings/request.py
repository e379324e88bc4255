"""What a command is asked: the options every stage shares, and the request made of them and the stage's own flags."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic.fields import FieldInfo

from cikd_cli.errors import CikdError
from cikd_cli.settings.configs import HARDWARE, OPTIMISATION, RUN, StageConfig, knob

EPOCHS = "e"
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

    recipe: str | None = knob(
        None, "Recipe name or .toml file.", panel=OPTIMISATION, first=True, unset="the data set's own"
    )
    config: str | None = knob(None, "TOML file of settings, such as a run's config.toml.", panel=OPTIMISATION)
    set: tuple[str, ...] = knob(
        (), "Set any knob, e.g. betas=0.9,0.95; may be repeated.", panel=OPTIMISATION, first=True
    )
    gpus: str | None = knob(
        None,
        "How many GPUs, 'all', a list such as 0,2, or 'cpu'.",
        panel=HARDWARE,
        first=True,
        unset="one if there is one",
    )
    processes: int | None = knob(None, "Processes to share the work with --gpus cpu.", panel=HARDWARE, ge=1)
    workers: int | None = knob(None, "Processes that load images.", panel=HARDWARE, unset="by the machine", ge=0)
    views: Literal["auto", "cpu", "device"] = knob(
        "auto",
        "cpu: image by image; device: a batch at a time, where the networks are; auto: the latter on a GPU that has "
        "room for the images, and of small images on a CPU without --workers.",
        panel=HARDWARE,
    )
    runs_dir: str = knob("runs", "Folder in which runs lie.", panel=RUN)
    name: str | None = knob(
        None, "Name of the run's folder.", panel=RUN, first=True, unset="the next number, as in ali-001"
    )
    resume: str | None = knob(None, "Continue this run, in place.", panel=RUN, first=True)
    save_every: str = knob("10m", "Time between checkpoints (30s, 10m, 2h; 10: minutes), or epochs (5e).", panel=RUN)
    go_on: bool = knob(
        False,
        "With --name: go on with the run of that name if it is there, so that the same command can be given again.",
        panel=RUN,
        flag="--continue",
    )
    stall_after: str = knob(
        "10m",
        "Of several processes: end all, naming the one that the others wait for, when none has moved for this long.",
        panel=HARDWARE,
    )
    quiet: bool = knob(False, "Print warnings and errors only.", panel=RUN)
    as_json: bool = knob(False, "Print the final summary as one JSON object.", panel=RUN, flag="--json")
    dry_run: bool = knob(False, "Check everything, take two steps, print the plan, and stop.", panel=RUN, first=True)
    fresh: bool = knob(False, "Start every stage anew instead of continuing what is there.", panel=RUN, first=True)

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

    @property
    def stall(self) -> float:
        """`stall_after` in seconds."""
        return parse_interval(self.stall_after)[0]


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


def flag_name(name: str, field_info: FieldInfo) -> str:
    """The flag of a field: `--batch-size` for `batch_size`, unless the field names its own (`from_run`: `--from`)."""
    own = extra(field_info, "flag")
    return own or "--" + name.replace("_", "-")


def is_first(field_info: FieldInfo) -> bool:
    """Whether `--help` shows the flag of a field; `--help-all` shows every flag."""
    noted = field_info.json_schema_extra
    return isinstance(noted, dict) and bool(noted.get("first"))


def extra(field_info: FieldInfo, key: str) -> str | None:
    """What `config.knob` noted beside a field: its "panel", its "flag", or what happens when it is "unset"."""
    noted = field_info.json_schema_extra
    value = noted.get(key) if isinstance(noted, dict) else None
    return value if isinstance(value, str) else None
