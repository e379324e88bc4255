"""Commands of cikd that die: at a random moment, or at a chosen system call that writes into their folder.

Each life is a process of its own, forked from this one, which has torch loaded already: a death costs no import.
"""

import functools
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cikd_cli.__main__ import main
from cikd_cli.errors import EXIT_INTERRUPTED
from cikd_cli.runs.directory import RunDir

WRITING = ("open", "write", "fsync", "replace", "unlink", "mkdir", "ftruncate")  # functions of os
TIMING = ("seconds", "images_per_second", "waited_for_data")


@dataclass(frozen=True)
class Blow:
    """What ends a life: a signal after some seconds, or SIGKILL at its n-th writing call (in the middle of a write)."""

    number: signal.Signals = signal.SIGKILL
    after: float | None = None
    at_call: int | None = None

    def __str__(self):
        return "SIGKILL in the writer" if self.at_call else f"{self.number.name} at a random moment"


def fork(act: Callable[[], int | None], said: Path | None = None) -> int:
    """The process id of a child that does `act` and exits with its value; what it prints goes to the file `said`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of fork beside threads; ours are idle
        pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        sys.stdout = sys.stderr = open(said or os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        code = act() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 70
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a child; its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def command(words: Sequence[object]) -> None:
    """Run a command line in this process, as the shell would."""
    sys.argv = ["cikd", *map(str, words)]
    main()


def die(real, name, first, *rest):
    """Half of a write, nothing of any other call, and the end."""
    if name == "write":
        real(first, bytes(rest[0])[: len(rest[0]) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def fail(code: int):
    """An act for `strike`: the call fails with this errno, a write after half of it."""

    def act(real, name, first, *rest):
        if name == "write" and len(rest[0]) > 1:
            real(first, bytes(rest[0])[: len(rest[0]) // 2])
        raise OSError(code, os.strerror(code), str(first))

    return act


def strike(folder: Path, *, at: int, act=die, calls: Sequence[str] = WRITING, again: bool = False) -> None:
    """In this process, `act` in place of the `at`-th of `calls` that touches `folder`; of later ones too if `again`."""
    folder, count, handles = str(folder.resolve()), 0, set()

    def struck(name, real, first, *rest, **named):
        nonlocal count
        inside = first in handles if isinstance(first, int) else os.path.abspath(first).startswith(folder)  # noqa: PTH100
        count += inside and name in calls
        if inside and name in calls and (count == at or (again and count > at)):
            return act(real, name, first, *rest)
        result = real(first, *rest, **named)
        if name == "open":
            (handles.add if inside else handles.discard)(result)
        return result

    for name in WRITING:
        setattr(os, name, functools.partial(struck, name, getattr(os, name)))


def live(words: Sequence[object], blow: Blow | None = None, *, said: Path, before: Callable[[], None] = int) -> int:
    """Run a command in a child, in the current folder, until it ends or `blow` ends it; its exit code.

    before: called in the child first.
    """

    def act():
        before()
        if blow and blow.at_call:
            strike(Path("runs"), at=blow.at_call)
        command(words)

    pid = fork(act, said)
    if blow and blow.after is not None:
        time.sleep(blow.after)
        os.kill(pid, blow.number)
    return ended(pid)


def torture(words: Sequence[object], name: str, blows: Iterable[Blow], *, said: Path) -> Counter:
    """Run `words` as the run `name`, and resume it after each blow, until it is done; the blows that it died of.

    A life that ends before its blow counts as none. When the blows are used up, the run is left to end.
    """
    deaths: Counter = Counter()
    start = (*words, "--name", name)
    now = start
    for blow in (*blows, None):
        code = live(now, blow, said=said)
        if code == 0:
            return deaths
        assert code in (-signal.SIGKILL, -signal.SIGTERM, EXIT_INTERRUPTED), f"{now}: {code}\n{said.read_text()}"
        deaths[str(blow)] += 1
        run = Path("runs") / name
        if not (run / "run.json").exists():  # killed while it was claimed: what the sentence about a taken name says
            shutil.rmtree(run, ignore_errors=True)
            now = start
        elif RunDir.open(run, finished=False).status == "done":  # killed after its last word
            (run / ".lock").unlink(missing_ok=True)
            return deaths
        else:
            now = (words[0], "--resume", run, *words[words.index("--save-every") :])
    raise AssertionError(f"{now} did not end")


def blows(count: int, length: float, draw: random.Random) -> Iterator[Blow]:
    """Random blows; length: of an undisturbed life, in seconds."""
    for _ in range(count):
        kind = draw.random()
        if kind < 0.4:
            yield Blow(at_call=draw.randrange(1, 80))
        else:
            yield Blow(signal.SIGTERM, draw.uniform(0, length)) if kind < 0.55 else Blow(after=draw.uniform(0, length))


def rows(run: Path) -> list[dict]:
    """metrics.jsonl without what a clock says."""
    return [{key: value for key, value in row.items() if key not in TIMING} for row in RunDir.open(run).metrics()]


def differences(straight: Path, broken: Path) -> list[str]:
    """How a run that was broken off differs from one that was not: weights, metrics, files; empty if in nothing."""
    found = []
    if (straight / "model.safetensors").read_bytes() != (broken / "model.safetensors").read_bytes():
        found.append("the weights differ")
    epochs = RunDir.open(straight).config()["epochs"]
    if [row["epoch"] for row in rows(broken)] != list(range(1, epochs + 1)):
        found.append(f"metrics.jsonl has the epochs {[row['epoch'] for row in rows(broken)]}")
    elif rows(straight) != rows(broken):
        found.append("the metrics differ")
    there, wanted = (sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (broken, straight))
    if there != wanted:
        found.append(f"files: {sorted(set(there) ^ set(wanted))}")
    stray = [str(path) for path in broken.parent.iterdir() if path.name.endswith(".tmp")]
    return found + [f"stray: {path}" for path in stray]


def lm_words(recipe, epochs, *, keep=7, save="0.02s"):
    words = ("lm", "--teacher", "runs/teacher", "--recipe", recipe, "--epochs", epochs)
    return (*words, "--set", f"keep_every={keep}", "--save-every", save, "--quiet")


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def wait_for(condition, pid, within=60):
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it has ended"
        time.sleep(0.005)
