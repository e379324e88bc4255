"""Does a change keep every weight bit for bit?  python benchmarks/same_weights.py [COMMIT]

Lets COMMIT (by itself: HEAD) and the working tree do the same short curriculum on this machine, with drop path: on one
process, on two, and killed in the middle of each stage and resumed; then compares all tensors that they
wrote. Digests in the repository would not do: kinds of processors round differently.
"""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = shlex.split(
    "--data digits --lob 3 --epochs 2 --fraction 0.3 --batch-size 32 --precision fp32 --quiet --set teacher_depth=3 "
    "--set student_width=24 --set student_depth=4 --set drop_path=0.3 --set ema=0.9 --gpus cpu"
)
STAGES = ("teacher", "ali", "lm")
WAYS = {"one process": (), "two processes": ("--processes", "2"), "killed and resumed": ()}


def main() -> None:
    """Compare, and exit with 1 where anything differs."""
    commit = sys.argv[1] if len(sys.argv) > 1 else "HEAD"
    differ = []
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder, "before")
        subprocess.run(
            ["git", "-C", ROOT, "worktree", "add", "--detach", before, commit], check=True, capture_output=True
        )
        try:
            for number, (way, words) in enumerate(WAYS.items()):
                killed = way.startswith("killed")
                places = [Path(folder, f"{number}-{side}") for side in ("before", "now")]
                with ThreadPoolExecutor() as both:
                    list(both.map(partial(train, words, killed), (before, ROOT), places))
                differ += [f"{way}: {name}" for name in compare(*places)]
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", before], check=True)
    print("\n".join(differ) or f"every weight is that of {commit}: {', '.join(WAYS)}")  # noqa: T201 - a program
    sys.exit(bool(differ))


def train(words: tuple[str, ...], killed: bool, tree: Path, place: Path) -> None:
    """A curriculum in `place` by the program in `tree`; killed: three times, soon after a checkpoint is there."""
    place.mkdir()
    command = [sys.executable, "-m", "cikd_cli", "run", *SETTINGS, *words, "--save-every", "0.2s"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    for stage in STAGES if killed else ():
        going = subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        checkpoint = place / "runs" / f"{stage}-001" / "checkpoints" / "last.safetensors"
        while not checkpoint.exists() and going.poll() is None:
            time.sleep(0.01)
        if going.poll() is None:
            os.killpg(going.pid, signal.SIGKILL)
        going.wait()
    subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True)


def compare(before: Path, now: Path) -> list[str]:
    """The runs whose weights are not the same; the tensors are compared, not what is said beside them."""
    differ = []
    for stage in STAGES:
        one, other = (load_file(place / "runs" / f"{stage}-001" / "model.safetensors") for place in (before, now))
        if one.keys() != other.keys() or not all(torch.equal(one[name], other[name]) for name in one):
            differ.append(f"{stage} differs")
    return differ


if __name__ == "__main__":
    main()
