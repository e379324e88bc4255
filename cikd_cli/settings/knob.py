"""A knob: one field of a settings class, and every fact about it beside it.

Flags, `--help`, recipe keys, `--set` keys, validation, what a run hands to the next, what `--resume` takes and what a
model card leaves out all derive from these facts: nowhere else is a knob listed by its name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from cikd_cli.settings.stages import EVERY, Kind

DATA = "Data"
MODELS = "Teacher and student"
OPTIMISATION = "Optimisation"
ANALYSIS = "Analysis"
HARDWARE = "Hardware"
RUN = "Run"
SLURM = "SLURM"
PANELS = (SLURM, DATA, MODELS, OPTIMISATION, ANALYSIS, HARDWARE, RUN)

Triple = tuple[float, float, float]
Precision = Literal["auto", "bf16", "fp16", "fp32"]


class Role(Flag):
    """What a knob is, for those who handle knobs without knowing them."""

    IMAGES = auto()  # which images, and how they are divided: a run hands it to the next
    INPUT = auto()  # how networks are shown images: handed on too
    STUDENT = auto()  # the shape of the student: handed on too
    PLACE = auto()  # where things lie and how they are held: no result depends on it, so later runs may differ
    COMMON = auto()  # `cikd run` has the flag, for all its stages
    RESUMABLE = auto()  # may be given with --resume
    TOLD = auto()  # the header says it in a row of its own
    RECIPE = auto()  # the header says it in the row of the recipe


NO_ROLE = Role(0)


@dataclass(frozen=True)
class Facts:
    """What is noted beside a field.

    panel: where `--help` shows its flag; without one it has none, and recipes, --config and --set reach it. flag:
    replaces the one derived from the name. first: `--help` shows it, not `--help-all` alone. unset: what happens by
    itself, where the default is None. metavar: what stands for its value. takes: a run that gives this (see
    `stages.Stage`), which becomes a parent. common: what `cikd run` says of it, where stages have defaults of their
    own. plain: a switch without a --no- beside it. variable: of the environment. commands: of an option, who takes it;
    in_a_job: and what takes its place in a job of SLURM.
    """

    panel: str | None = None
    flag: str | None = None
    first: bool = False
    unset: str | None = None
    role: Role = NO_ROLE
    metavar: str | None = None
    takes: str | None = None
    common: str | None = None
    plain: bool = False
    variable: str | None = None
    commands: Kind = EVERY
    in_a_job: str | None = None
    bounds: Mapping[str, Any] = field(default_factory=dict)


def knob(default: Any, help: str, **facts: Any) -> Any:
    """A knob; facts: those of `Facts`, and pydantic's bounds (ge, gt, le, lt, pattern) as they are."""
    known = {key: facts.pop(key) for key in list(facts) if key in Facts.__dataclass_fields__}
    return _field(default, help, Facts(**known, bounds=facts))


def changed(config_class: type[BaseModel], name: str, default: Any, help: str | None = None, **facts: Any) -> Any:
    """The knob `name` of a class that a subclass gives another default, text or fact."""
    info = config_class.model_fields[name]
    return _field(default, help or info.description or "", replace(facts_of(info), **facts))


def facts_of(info: FieldInfo) -> Facts:
    """What is noted beside a field; of one that is no knob, nothing."""
    noted = info.json_schema_extra
    found = noted.get("knob") if isinstance(noted, dict) else None
    return found if isinstance(found, Facts) else Facts()


def knobs_with(config_class: type[BaseModel], role: Role) -> tuple[str, ...]:
    """The names of the knobs that have any of the roles, as they are declared."""
    return tuple(name for name, info in config_class.model_fields.items() if facts_of(info).role & role)


def parent_knobs(config_class: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """(name, what it takes) of the knobs that name a run to stand on."""
    for name, info in config_class.model_fields.items():
        if takes := facts_of(info).takes:
            yield name, takes


def flag_name(name: str, info: FieldInfo) -> str:
    """The flag of a field: `--batch-size` for `batch_size`, unless the field names its own (`from_run`: `--from`)."""
    return facts_of(info).flag or "--" + name.replace("_", "-")


def _field(default: Any, help: str, facts: Facts) -> Any:
    noted: dict[str, Any] = {"knob": facts}
    return Field(default, description=help, json_schema_extra=noted, **facts.bounds)
