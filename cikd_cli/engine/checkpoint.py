"""Checkpoints: one safetensors file each, whole or not at all, never pickle, never the teacher.

Order, augmentation and drop path are functions of (seed, epoch, index) and (seed, step); what is left to store is
weights, optimizer moments, the average, and the sums of the epoch that is under way.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cikd_cli.errors import CikdError
from cikd_cli.runs import RunDir, write_atomically

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"


@dataclass
class Progress:
    """Where a run stands; `sums` are the epoch's running totals, so that a resumed epoch logs what it would have."""

    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    sums: dict[str, float] = field(default_factory=dict)
    scaler: dict[str, float] = field(default_factory=dict)


def save_checkpoint(
    run: RunDir,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    progress: Progress,
    keep_as: str | None = None,
) -> None:
    """Write checkpoints/last.safetensors, keeping the one before as previous; `keep_as` names a lasting copy."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    # clone: safetensors refuses tensors that share memory
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(plain, metadata={"progress": json.dumps(asdict(progress))})
    run.checkpoints.mkdir(exist_ok=True)
    last = run.checkpoints / LAST
    if last.exists():
        last.replace(run.checkpoints / PREVIOUS)
    write_atomically(last, data)
    if keep_as:
        write_atomically(run.checkpoints / f"{keep_as}.safetensors", data)


def load_checkpoint(
    run: RunDir, *, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> Progress:
    """Restore the newest whole checkpoint in place; a fresh Progress when there is none yet."""
    for name in (LAST, PREVIOUS):
        path = run.checkpoints / name
        if not path.exists():
            continue
        try:
            tensors, progress = _read(path)
        except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError):
            continue  # torn: the one before is whole
        _restore(tensors, model=model, optimizer=optimizer, average=average, path=path)
        return progress
    if any((run.checkpoints / name).exists() for name in (LAST, PREVIOUS)):
        raise CikdError(
            f"No checkpoint in {run.checkpoints} can be read.", hint="start the stage again without --resume"
        )
    return Progress()


def _read(path: Path) -> tuple[dict[str, Tensor], Progress]:
    with safetensors.safe_open(path, framework="pt") as file:
        progress = TypeAdapter(Progress).validate_json((file.metadata() or {})["progress"])
    return load_file(path), progress


def _restore(
    tensors: dict[str, Tensor],
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    path: Path,
) -> None:
    try:
        model.load_state_dict(_part(tensors, "model."))
        if average is not None:
            average.load_state_dict(_part(tensors, "average."))
        optimizer.load_state_dict({"state": _moments(tensors), "param_groups": optimizer.state_dict()["param_groups"]})
    except (RuntimeError, KeyError, ValueError) as error:
        raise CikdError(f"{path} belongs to another network ({str(error).splitlines()[0]}).") from error
    for parameter, state in optimizer.state.items():
        if any(moment.shape not in (parameter.shape, ()) for moment in state.values()):
            raise CikdError(f"{path} belongs to another network (a moment has another shape than its weights).")


def _moments(tensors: dict[str, Tensor]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in _part(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    return state


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
