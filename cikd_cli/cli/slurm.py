"""`cikd slurm`: a batch script that starts a stage on a SLURM cluster, and goes on with its run when started again."""

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from cikd_cli.errors import CikdError
from cikd_cli.render import render
from cikd_cli.runs.numbering import check_name
from cikd_cli.settings.knob import SLURM, facts_of, flag_name, knob
from cikd_cli.settings.request import Request, RunOptions

_LONGEST_NOTICE = 65_535  # seconds, of sbatch --signal
RESTARTS = 3  # of the processes on several machines, after one was killed
_WORD = r"^[\w.,:+@/=&|()*-]+$"  # what a line of sbatch takes without quotes


class SlurmOptions(BaseModel):
    """What `cikd slurm` asks of the scheduler."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    # fmt: off
    nodes: int = knob(1, "Machines.", panel=SLURM, ge=1)
    gpus_per_node: int = knob(1, "GPUs of each machine, a process each.", panel=SLURM, ge=1)
    cpus_per_gpu: int = knob(8, "Cores for each GPU, to load images.", panel=SLURM, ge=1)
    time: str = knob("24:00:00", "Limit of the job; 0: none.", panel=SLURM)
    grace: int = knob(
        120, "Seconds before the limit at which the run is saved once more.", panel=SLURM, ge=1, le=_LONGEST_NOTICE)
    mem: str | None = knob(
        None, "Memory of each machine, e.g. 64G.", panel=SLURM, unset="the cluster's default", pattern=_WORD)
    partition: str | None = knob(None, "Partition.", panel=SLURM, pattern=_WORD)
    account: str | None = knob(None, "Account that pays.", panel=SLURM, pattern=_WORD)
    qos: str | None = knob(None, "Quality of service.", panel=SLURM, pattern=_WORD)
    constraint: str | None = knob(None, "Features that the machines must have.", panel=SLURM, pattern=_WORD)
    # fmt: on

    @field_validator("time")
    @classmethod
    def _is_time(cls, text: str) -> str:
        if not re.fullmatch(r"([0-9]{1,9}-)?[0-9]{1,9}(:[0-5]?[0-9]){0,2}", text):
            raise ValueError("a time such as 90 (minutes), 24:00:00 or 2-12:00:00 (days-hours)")
        return text


def script(request: Request, flags: Mapping[str, Any], *, trains: bool) -> str:
    """The batch script of a checked request; flags: those of SlurmOptions that were typed.

    trains: whether it is one stage with a run of its own, as opposed to `cikd run`.

    Raises:
        CikdError: the request is not one that a job can start again and again.
    """
    asked = SlurmOptions(**flags)
    given = request.options
    for key, info in RunOptions.model_fields.items():
        if getattr(given, key) and (instead := facts_of(info).in_a_job):
            raise CikdError(f"{flag_name(key, info)} is not for a job", hint=instead)
    if not trains and asked.nodes > 1:
        raise CikdError("cikd run uses one machine", hint="--nodes 1, or a job for each stage")
    if trains and given.name is None:
        raise CikdError(
            "A job goes on with its run when it is started again, and finds it by its name",
            hint=f"cikd slurm {request.stage} --name NAME",
        )
    if request.several:
        raise CikdError("A job has one run", hint=f"a job for each --{next(iter(request.several))}")
    if 0 < (limit := _seconds(asked.time)) <= asked.grace:
        raise CikdError(
            f"--time {asked.time} is a job of {limit:,} seconds, too short to be saved {asked.grace:,} before its end",
            hint=f"--grace {min(limit // 2, _LONGEST_NOTICE)}, or a longer --time (0: no limit)",
        )
    check_name(given.name)
    words = ["-m", "cikd_cli", request.stage, *request.words]
    if trains and not given.go_on:
        words.append("--continue")
    if asked.nodes == 1:
        words += ["--gpus", str(asked.gpus_per_node)]
    values = asked.model_dump() | {
        "job": given.name or "cikd-run",
        "cpus": asked.cpus_per_gpu * asked.gpus_per_node,
        "made_by": shlex.join(["cikd", "slurm", request.stage, *request.words]),
        "folder": shlex.quote(str(Path.cwd())),
        "python": shlex.quote(sys.executable),
        "words": shlex.join(words),
        "restarts": RESTARTS,
    }
    return render("slurm.sh.j2", values)


def _seconds(time: str) -> int:
    """A time of SlurmOptions in whole minutes, rounded up as SLURM does; 0 is no limit.

    It is days-hours[:minutes[:seconds]], hours:minutes:seconds, minutes:seconds or minutes.
    """
    days, dash, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if not dash and len(parts) < 3:
        parts.insert(0, 0)
    hours, minutes, seconds = (*parts, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes + (seconds > 0)) * 60
