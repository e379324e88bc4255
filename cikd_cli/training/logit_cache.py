"""Which folder holds a run's teacher logits, what it was made for, and whether the disk can take it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cikd_cli.data.sources import DataSource
from cikd_cli.data.views import VERSION, view_epoch
from cikd_cli.engine.precision import choose_precision
from cikd_cli.errors import CikdError
from cikd_cli.files import read_text, to_json
from cikd_cli.methods import Facts
from cikd_cli.methods.lm import warmup_weight
from cikd_cli.models.logit_cache import KEY_FILE, TeacherCache
from cikd_cli.models.spec import ModelSpec
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.configs import TrainingConfig
from cikd_cli.training.images import view_law

AUTO = "teacher-cache"  # beside the runs
FORMAT = 1  # of the files
MOST_KEY = 2**20  # bytes
_NAMED = 3  # folders made for something else that the header names


def cache_folder(config: Any, runs_dir: Path) -> str | None:
    """The whole path that a config's `teacher_cache` means; views that come again turn it on."""
    if not getattr(config, "distill", False):
        return None
    named = config.teacher_cache or ("auto" if config.views_per_image else None)
    if named is None:
        return None
    return str((runs_dir / AUTO if named == "auto" else Path(named).expanduser()).resolve())


def check_folder(folder: str) -> None:
    """Refuse a folder of logits that none can be written into."""
    _check_disk(Path(folder), 0, [0])


def open_cache(
    config: Any,
    source: DataSource,
    spec: ModelSpec,
    teacher: RunDir | None,
    *,
    device: torch.device,
    warn: Callable[[str], None],
) -> tuple[TeacherCache | None, Facts]:
    """The cache of a run, none if it has none, and rows for the header.

    spec: the student's, by whose mean and std the images are normalised. warn: is told of damaged parts.
    Raises CikdError when the folder is none, or the disk too small.
    """
    if config.teacher_cache is None or teacher is None:
        return None, []
    root = Path(config.teacher_cache)
    precision = choose_precision(config.precision, device)
    key = _key(config, source, spec, teacher, precision=precision, device=device.type)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    cache = TeacherCache(root / name, key, images=len(source.train), classes=len(source.classes), warn=warn)
    epochs = sorted(
        {
            view_epoch(epoch, config.views_per_image)
            for epoch in range(config.epochs)
            if warmup_weight(epoch, config.kd_warmup_epochs) > 0
        }
    )
    there = [sum(path.stat().st_size for path in cache.parts(epoch)) for epoch in epochs]
    batch = min(config.batch_size, len(source.train))  # as the data will lower it
    shown = len(source.train) // batch * batch  # an epoch's last, short batch is left out
    _check_disk(root, _bytes(shown, source), there)
    facts = [
        (
            "teacher cache",
            f"{cache.folder}  {_size(_bytes(len(source.train), source) * len(epochs))} "
            f"for {len(epochs)} view-epochs, "
            f"{sum(map(bool, there))} of them begun",
        )
    ]
    if not cache.folder.exists():
        facts += [("", told) for told in _others(root, key)]
    return cache, facts


def _key(
    config: TrainingConfig, source: DataSource, spec: ModelSpec, teacher: RunDir, *, precision: str, device: str
) -> dict[str, Any]:
    """Everything that logits depend on but for rounding, as JSON reads it back."""
    key = {
        "format": FORMAT,
        "teacher": teacher.sha256,
        "data": source.fingerprint,
        "images": len(source.train),
        "mean": spec.mean,
        "std": spec.std,
        "decode_size": config.decode_size,
        "seed": config.seed,
        "precision": precision,
        "device": device,
        "view_version": VERSION,
        **asdict(view_law(config)),
    }
    read_back: dict[str, Any] = json.loads(to_json(key))
    return read_back


def _bytes(images: int, source: DataSource) -> int:
    return images * len(source.classes) * 2


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def _check_disk(root: Path, whole: int, there: Sequence[int]) -> None:
    """Refuse a folder that cannot hold what is missing; there: bytes of each view-epoch so far, whole: in the end."""
    missing = sum(max(0, whole - held) for held in there)
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    if not nearest.is_dir():
        raise CikdError(f"{nearest} is not a folder", hint="--teacher-cache takes a folder, or auto")
    if not all(there) and not os.access(nearest, os.W_OK):
        raise CikdError(f"{nearest} cannot be written", hint="--teacher-cache DIR chooses another folder")
    free = shutil.disk_usage(nearest).free
    if missing > free:
        raise CikdError(
            f"The teacher cache needs {_size(missing)} more in {root}, where {_size(free)} are free",
            hint="--teacher-cache DIR on another disk, or --views-per-image K, which keeps K views of each image",
        )


def _others(root: Path, key: dict[str, Any]) -> list[str]:
    """A line for each cache in `root` made for something else, the most similar first."""
    found: list[tuple[int, str]] = []
    for path in sorted(root.glob(f"*/{KEY_FILE}")):
        try:
            other = dict(json.loads(read_text(path, most=MOST_KEY)))
        except (OSError, ValueError, TypeError, RecursionError):
            found.append((len(key), f"{path} cannot be read; that cache is left alone"))
            continue
        names = [name for name in key | other if key.get(name) != other.get(name)]
        found.append((len(names), f"{path.parent} was made for something else ({', '.join(names)}); it is left alone"))
    lines = [line for _, line in sorted(found)]
    more = [f"and {len(lines) - _NAMED} more"] if len(lines) > _NAMED else []
    return lines[:_NAMED] + more
