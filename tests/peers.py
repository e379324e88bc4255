"""Processes of one command, as torchrun starts them: forked from this one, which has torch loaded already."""

import os
import socket

from crash import command, ended, fork


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(words, size, folder, *, before=str, **environment):
    """The process ids of `size` processes that share the command `words`; what process 1 prints: folder/said-1.txt."""
    port, here = free_port(), {key: str(value) for key, value in environment.items()}

    def act(rank):
        os.environ |= {
            "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **here,
        }  # fmt: skip
        before(rank)
        command(words)

    return [fork(lambda rank=rank: act(rank), folder / f"said-{rank}.txt") for rank in range(size)]


def share(words, size, folder, **settings):
    """Run a command in `size` processes; their exit codes, and what each printed."""
    codes = [ended(pid) for pid in start(words, size, folder, **settings)]
    return codes, [(folder / f"said-{rank}.txt").read_text() for rank in range(size)]


def words_for(stage, teacher, recipe, name, epochs=4):
    return (stage, "--teacher", teacher, "--recipe", recipe, "--epochs", epochs, "--gpus", "cpu", "--name", name)
