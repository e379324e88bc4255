"""Kills the training stages of a tiny curriculum hundreds of times, and checks that nothing is lost.

    python benchmarks/chaos.py --kills 200 --seed 0

Each stage is trained once without a disturbance, and then again and again under blows (SIGKILL and SIGTERM at random
moments, SIGKILL inside the writing calls), resumed after each, until the blows are used up. Every run has to end in the
undisturbed one's weights, metrics and files. The exit code is 1 if one does not.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from crash import Blow, blows, differences, live, torture
from tiny import RECIPE, draw_photos

SOURCES = {
    "finetune-teacher": ("--data", "photos"),
    "ali": ("--teacher", "runs/teacher"),
    "lm": ("--from", "runs/ali"),
}
COLUMNS = ("stage", "runs", "SIGKILL at random", "SIGKILL in the writer", "SIGTERM at random", "seconds", "lost")


def main() -> int:
    """Run the harness in a folder of its own; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="blows in all, over the three stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        draw_photos(Path("photos"))
        Path("tiny.toml").write_text(RECIPE)
        _say(COLUMNS)
        lost = []
        for number, (stage, source) in enumerate(SOURCES.items()):
            kills = asked.kills * (number + 1) // 3 - asked.kills * number // 3
            words = (stage, *source, "--recipe", "tiny.toml", "--epochs", asked.epochs, "--set", "keep_every=7")
            lost += _disturb((*words, "--save-every", "0.02s", "--quiet"), kills, draw)
        os.chdir("/")
    return bool(lost)


def _disturb(words: tuple[object, ...], kills: int, draw: random.Random) -> list[str]:
    """Train a stage undisturbed and then under `kills` blows; what was lost."""
    name = {"finetune-teacher": "teacher"}.get(str(words[0]), str(words[0]))
    said, deaths, lost, runs = Path("said.txt"), Counter[str](), [], 0
    start = time.monotonic()
    if live((*words, "--name", name), said=said) != 0:
        raise SystemExit(said.read_text())
    length = time.monotonic() - start
    while deaths.total() < kills:
        runs += 1
        broken = f"{name}-broken-{runs}"
        deaths += torture(words, broken, blows(kills - deaths.total(), length, draw), said=said)
        lost += [f"{broken}: {what}" for what in differences(Path("runs") / name, Path("runs") / broken)]
    counts = [deaths[str(blow)] for blow in (Blow(after=0), Blow(at_call=1), Blow(signal.SIGTERM, after=0))]
    _say((words[0], runs, *counts, f"{time.monotonic() - start:.0f}", "; ".join(lost) or "nothing"))
    return lost


def _say(cells: tuple[object, ...]) -> None:
    sys.stdout.write("| " + " | ".join(map(str, cells)) + " |\n")
    if cells == COLUMNS:
        sys.stdout.write("|" + " --- |" * len(COLUMNS) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
