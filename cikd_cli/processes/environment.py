"""What torch elastic tells, in the environment, to a process that it has started; read without torch."""

import os

from cikd_cli.errors import CikdError

VARIABLES = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def started_by_launcher() -> bool:
    """Whether torchrun, or a launcher like it, has started this process as one of several for the same command."""
    return all(name in os.environ for name in VARIABLES)


def check() -> None:
    """Raise CikdError if a launcher has started this process and its variables make no sense, as by hand."""
    if started_by_launcher():
        _number("WORLD_SIZE", least=1)
        _number("LOCAL_WORLD_SIZE", least=1, default=world_size())
        _number("RANK", most=world_size() - 1)
        _number("LOCAL_RANK", most=local_world_size() - 1)
        _number("MASTER_PORT", least=1, most=65535)
        restart()
        may_restart()


def speaks() -> bool:
    """Whether this process tells the user what is wrong: the first of several, and one whose number makes no sense."""
    try:
        check()
    except CikdError:
        return True
    return rank() == 0


def rank() -> int:
    """The number of this process among those of the launcher; 0 also where there is none."""
    return _number("RANK") if started_by_launcher() else 0


def local_rank() -> int:
    """The number of this process among those on its machine."""
    return _number("LOCAL_RANK") if started_by_launcher() else 0


def world_size() -> int:
    """How many processes there are, on all machines."""
    return _number("WORLD_SIZE") if started_by_launcher() else 1


def local_world_size() -> int:
    """How many processes there are on this machine."""
    return _number("LOCAL_WORLD_SIZE", default=world_size()) if started_by_launcher() else 1


def restart() -> int:
    """How often the launcher has started the processes again."""
    return _number("TORCHELASTIC_RESTART_COUNT", default=0) if started_by_launcher() else 0


def may_restart() -> bool:
    """Whether the launcher starts the same command again when a process has failed."""
    return started_by_launcher() and _number("TORCHELASTIC_MAX_RESTARTS", default=0) > 0


def _number(name: str, *, least: int = 0, most: int | None = None, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if text.isdecimal() and least <= int(text) and (most is None or int(text) <= most):
        return int(text)
    raise CikdError(
        f"{name} is {text!r} in the environment, which no launcher sets",
        hint="start it with torchrun; without it:  unset " + " ".join(VARIABLES),
    )
