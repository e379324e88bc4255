"""Broken files through every loader: whatever a file holds, it loads or is refused with a sentence (CikdError).

    python benchmarks/fuzz.py --files 20000 --seed 0

Valid files of a small curriculum are damaged, blindly (bits, cuts, insertions) and knowingly (values of a wrong type,
huge numbers, deep nesting, sizes in headers), and given to what reads them, in one process. A file fails with any other
exception, after SECONDS, or when the process holds more than MEMORY; failing files are kept to be looked at.
"""

import argparse
import contextlib
import io
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from fuzz_mutations import damaged_bytes, damaged_image, damaged_json, damaged_lines, damaged_safetensors, damaged_toml
from fuzz_seeds import make_seeds

from cikd_cli.data.images import look, open_image, pillow_silenced
from cikd_cli.engine.checkpoint import UNSIGNED, load_checkpoint, read_about, sign
from cikd_cli.engine.optim import parameter_groups
from cikd_cli.errors import CikdError
from cikd_cli.files import file_sha256, to_json
from cikd_cli.models.checkpoints import open_checkpoint
from cikd_cli.models.foreign import fit
from cikd_cli.models.weights import load_model, read_spec
from cikd_cli.reports import page
from cikd_cli.reports.card import write_card
from cikd_cli.reports.plots import plot_curves
from cikd_cli.runs import lineage
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.inheritance import inherited_settings
from cikd_cli.runs.lineage import all_runs, damaged_runs
from cikd_cli.runs.metrics import drop_metrics_after
from cikd_cli.settings.methods import LmConfig
from cikd_cli.settings.recipes import load_recipe, resolve
from cikd_cli.settings.request import RunOptions
from cikd_cli.settings.stages import sections
from cikd_cli.stages.subjects import teacher_of
from cikd_cli.training.execute import stored_config

SECONDS = 5  # a file
MEMORY = 1e9  # bytes that the process may hold, everything it has imported included, but for code mapped from files
DRAWN = 100  # one file in so many also gets its picture drawn, which takes most of a second


class Hang(BaseException):
    """A file took too long; no `except Exception` may swallow it."""


@dataclass
class Tally:
    """What became of the files of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)


class Loaders:
    """The seeds, a working copy of their runs, and for each kind of file how it is damaged and who reads it."""

    def __init__(self, seeds: Path, work: Path) -> None:
        self.seeds, self.work = seeds, work
        shutil.copytree(seeds / "runs", work / "runs")
        self.run = work / "runs" / "lm-001"
        self.kinds: dict[str, Callable[[random.Random], tuple[Path, Callable[[], None]]]] = {
            "run.json": self._record,
            "config.toml": self._config,
            "metrics.jsonl": self._metrics,
            "safetensors": self._safetensors,
            "checkpoint": self._checkpoint,
            "pth": self._pth,
            "recipe": self._recipe,
            "image": self._image,
        }

    def restore(self) -> None:
        """Put the files of the run back."""
        seed = self.seeds / "runs" / "lm-001"
        for name in ("run.json", "config.toml", "metrics.jsonl", "model.safetensors", "checkpoints/last.safetensors"):
            shutil.copyfile(seed / name, self.run / name)

    def _record(self, rng: random.Random) -> tuple[Path, Callable[[], None]]:
        path = self.run / "run.json"
        path.write_bytes(damaged_json(path.read_bytes(), rng))
        return path, lambda: self._read_run(draw=rng.randrange(DRAWN) == 0)

    def _config(self, rng: random.Random) -> tuple[Path, Callable[[], None]]:
        path = self.run / "config.toml"
        path.write_bytes(damaged_toml(path.read_bytes(), rng))
        record = json.loads((self.run / "run.json").read_text()) | {"config_sha256": file_sha256(path)}
        (self.run / "run.json").write_text(json.dumps(record))  # as if nobody could have noticed

        def read() -> None:
            self._read_run(draw=False)
            resolve(LmConfig, "lm", {}, options=RunOptions(config=str(path)))

        return path, read

    def _metrics(self, rng: random.Random) -> tuple[Path, Callable[[], None]]:
        path = self.run / "metrics.jsonl"
        path.write_bytes(damaged_lines(path.read_bytes(), rng))

        def read() -> None:
            self._read_run(draw=rng.randrange(DRAWN) == 0)
            drop_metrics_after(RunDir.open(self.run).path, 1)

        return path, read

    def _safetensors(self, rng: random.Random) -> tuple[Path, Callable[[], None]]:
        path = self.work / "model.safetensors"
        seed = self.seeds / "runs" / rng.choice(["lm-001", "teacher-001", "ali-001"]) / "model.safetensors"
        path.write_bytes(damaged_safetensors(seed.read_bytes(), rng))

        def read() -> None:
            if read_spec(path) is None:
                fit(open_checkpoint(path), path, "vit_tiny_patch16_224", num_classes=2, image_size=16)
            load_model(path)

        return path, read

    def _checkpoint(self, rng: random.Random) -> tuple[Path, Callable[[], None]]:
        path = self.run / "checkpoints" / "last.safetensors"
        content = path.read_bytes()
        damaged = damaged_safetensors(content, rng)
        if rng.random() < 0.5:  # as if its writer had made it so
            damaged = sign(damaged.replace(read_about(content).sha256.encode(), UNSIGNED.encode()))
        path.write_bytes(damaged)
        path.with_name("previous.safetensors").unlink(missing_ok=True)

        def read() -> None:
            model, _ = load_model(self.run / "model.safetensors")
            run = RunDir.open(self.run)
            method = torch.nn.ModuleDict({"student": model})
            config = stored_config(run, LmConfig)
            decay = {"weight_decay": config.weight_decay, "layer_decay": config.layer_decay}
            optimizer = torch.optim.AdamW(parameter_groups(method, model, **decay))
            load_checkpoint(run, method=method, optimizer=optimizer, average=None, warn=lambda _: None)

        return path, read

    def _pth(self, rng: random.Random) -> tuple[Path, Callable[[], None]]:
        path = self.work / "weights.pth"
        path.write_bytes(damaged_bytes((self.seeds / "weights.pth").read_bytes(), rng))
        return path, lambda: _discard(
            fit(open_checkpoint(path), path, "vit_tiny_patch16_224", num_classes=2, image_size=16)
        )

    def _recipe(self, rng: random.Random) -> tuple[Path, Callable[[], None]]:
        path = self.work / "recipe.toml"
        path.write_bytes(damaged_toml((self.seeds / "recipe.toml").read_bytes(), rng))

        def read() -> None:
            load_recipe(str(path))
            for section, config_class in sections().items():
                resolve(config_class, section, {}, options=RunOptions(recipe=str(path)))

        return path, read

    def _image(self, rng: random.Random) -> tuple[Path, Callable[[], None]]:
        seed = rng.choice(sorted((self.seeds / "images").iterdir()))
        path = self.work / f"image{seed.suffix}"
        path.write_bytes(damaged_image(seed.read_bytes(), rng))

        def read() -> None:
            with pillow_silenced():
                look(path)
            open_image(path, short_side=16)
            open_image(path)

        return path, read

    def _read_run(self, *, draw: bool) -> None:
        """What `cikd runs`, `--from`, `--resume`, `eval` and the report read of a run."""
        runs = all_runs(self.work / "runs")
        to_json({"rows": lineage.rows(runs), "runs": lineage.summary(runs)})
        for path, error in damaged_runs(self.work / "runs"):
            raise CikdError(f"{path} is left out: {error.message}")
        run = RunDir.open(self.run, finished=False)
        inherited_settings(run)
        stored_config(run, LmConfig)
        teacher_of(run)
        write_card(run, 50.0, ["", "top-1"], [["student", "50"]])
        page.page({"lm": run}, [["student", "50"]], [], run.record.argv)
        history = page.history("lm", run)
        if draw:
            plot_curves(self.work / "curves", [history])


def _discard(_: object) -> None:
    """For lambdas that are called for what they raise."""


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Raise Hang in the block after SECONDS."""

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak_memory() -> int:
    """Bytes the process has held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def mapped_code() -> int:
    """Bytes of files, which are libraries, that the process has mapped and touched; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssFile")), 0)


def fuzz(
    seeds: Path, work: Path, *, files: int, seed: int, keep: Path | None = None, memory: float = MEMORY
) -> dict[str, Tally]:
    """Damage and read `files` files, the kinds in turn; file n of a seed is the same however many there are."""
    loaders = Loaders(seeds, work)
    tallies = {kind: Tally() for kind in loaders.kinds}
    memory += mapped_code()
    for number in range(files):
        kind = list(loaders.kinds)[number % len(loaders.kinds)]
        loaders.restore()
        path, read = loaders.kinds[kind](random.Random(f"{seed}/{number}"))
        content, before, started = path.read_bytes(), peak_memory(), time.perf_counter()
        tally, problem = tallies[kind], ""
        try:
            with alarm(), contextlib.redirect_stdout(io.StringIO()):
                read()
            tally.outcomes["loaded"] += 1
        except CikdError:
            tally.outcomes["refused"] += 1
        except Hang:
            problem = f"took more than {SECONDS} s"
        except BaseException:
            problem = traceback.format_exc()
        seconds = time.perf_counter() - started
        tally.seconds, tally.slowest = tally.seconds + seconds, max(tally.slowest, seconds)
        if peak_memory() > max(memory, before):
            problem += f" the process took {peak_memory() / 1e6:,.0f} MB"
        if problem:
            name = f"{number}-{path.name}"
            tally.failures.append(f"{kind} {name}: {problem}")
            if keep is not None:
                keep.mkdir(exist_ok=True)
                (keep / name).write_bytes(content)
    return tallies


def main() -> None:
    """Print a row a kind; exit code 1 if any file failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for files that failed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds, work = Path(folder) / "seeds", Path(folder) / "work"
        seeds.mkdir()
        work.mkdir()
        make_seeds(seeds)
        at_first, code, started = peak_memory(), mapped_code(), time.perf_counter()
        tallies = fuzz(seeds, work, files=given.files, seed=given.seed, keep=given.keep)
        seconds = time.perf_counter() - started
    rows = [("kind", "files", "loaded", "refused", "failed", "seconds", "slowest")]
    for kind, tally in tallies.items():
        counts = (tally.outcomes["loaded"], tally.outcomes["refused"], len(tally.failures))
        rows.append((kind, *map(str, (sum(counts), *counts)), f"{tally.seconds:.1f}", f"{tally.slowest:.2f}"))
    failures = [failure for tally in tallies.values() for failure in tally.failures]
    lines = [*failures[:20], *("".join(cell.rjust(14) for cell in row) for row in rows)]
    held = f"{(peak_memory() - code) / 1e6:,.0f} MB held at most ({(at_first - code) / 1e6:,.0f} MB before the first)"
    sys.stdout.write(
        "\n".join([*lines, f"{given.files:,} files in {seconds:,.0f} s, {held} and {code / 1e6:,.0f} MB of code", ""])
    )
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
