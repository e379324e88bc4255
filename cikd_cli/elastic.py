"""What torch elastic tells, in the environment, to a process that it has started; read without torch."""

import os

VARIABLES = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def started_by_launcher() -> bool:
    """Whether torchrun, or a launcher like it, has started this process as one of several for the same command."""
    return all(name in os.environ for name in VARIABLES)


def rank() -> int:
    """The number of this process among those of the launcher; 0 also where there is none: the one that speaks."""
    return int(os.environ["RANK"]) if started_by_launcher() else 0


def world_size() -> int:
    """How many processes there are, on all machines."""
    return int(os.environ["WORLD_SIZE"]) if started_by_launcher() else 1


def restart() -> int:
    """How often the launcher has started the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if started_by_launcher() else 0


def may_restart() -> bool:
    """Whether the launcher starts the same command again when a process has failed."""
    return started_by_launcher() and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
