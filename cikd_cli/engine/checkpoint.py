"""Checkpoints: one safetensors file each, whole or not at all, never pickle, never the teacher.

Order, augmentation and drop path are functions of (seed, epoch, index) and (seed, step); what is left to store is what
the method trains (its parameters and buffers), optimizer moments, the average, and the sums of the epoch that is under
way.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from cikd_cli.errors import EXIT_FAILED, CikdError
from cikd_cli.files import write_atomically
from cikd_cli.runs.directory import RunDir

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"
UNSIGNED = "0" * 64


@dataclass
class Progress:
    """Where a run stands; `sums` are the epoch's running totals, so that a resumed epoch logs what it would have."""

    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    sums: dict[str, float] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)


@dataclass
class About:
    """What the header of a checkpoint says: whose it is, the hash over all of it, and how far training was."""

    run: str | None
    sha256: str
    progress: Progress


def save_checkpoint(
    run: RunDir,
    *,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    progress: Progress,
    keep_as: str | None = None,
) -> None:
    """Write checkpoints/last.safetensors, keeping the one before as previous; `keep_as` names a lasting copy."""
    tensors = {f"method.{name}": tensor for name, tensor in method.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    # clone: safetensors refuses tensors that share memory
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    about = About(run.record.id, UNSIGNED, progress)
    content = sign(save(plain, metadata={"cikd": json.dumps(asdict(about))}))
    run.make_folder(run.checkpoints)
    if keep_as:  # first: what `last` says is done is not done again
        write_atomically(run.checkpoints / f"{keep_as}.safetensors", content)
    write_atomically(run.checkpoints / LAST, content, keep=run.checkpoints / PREVIOUS)


def load_checkpoint(
    run: RunDir,
    *,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    warn: Callable[[str], None],
) -> Progress:
    """Restore the newest whole checkpoint in place; a fresh Progress when there is none yet.

    `warn` is told of damaged ones, which go: `last` must not take the place of a good `previous`.

    Raises:
        CikdError: there are checkpoints, and none of them is whole; they stay as they are.
    """
    path, content, damaged = _newest(run)
    if path is None:
        return Progress()
    for other, why in damaged.items():
        warn(f"{other} {why}; going on from {path.name}")
        other.unlink(missing_ok=True)
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise CikdError(
            f"{path} is damaged: {error}", hint=f"remove it, and  cikd {run.stage} --resume {run.path}"
        ) from error
    _restore(tensors, method=method, optimizer=optimizer, average=average, path=path)
    return read_about(content).progress


def saved_step(run: RunDir) -> int:
    """The step that the run goes on from; 0 where there is no checkpoint.

    Raises CikdError if it cannot go on from its checkpoints; nothing is written.
    """
    path, content, _ = _newest(run)
    if path is None and run.record.status == "done":
        raise CikdError(
            f"{run.path} is finished and has no checkpoint any more to train on from",
            hint=f"start a new run:  cikd {run.stage} --config {run.path / 'config.toml'} --epochs N",
        )
    return read_about(content).progress.step if path else 0


def _newest(run: RunDir) -> tuple[Path | None, bytes, dict[Path, str]]:
    """The newest whole checkpoint and its content, none if there is none yet; the damaged ones it is older than."""
    damaged: dict[Path, str] = {}
    periodic = sorted(run.checkpoints.glob("epoch-*.safetensors"), key=lambda path: (len(path.name), path.name))[::-1]
    for path in (run.checkpoints / LAST, run.checkpoints / PREVIOUS, *periodic):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:  # it may be whole: its owner decides
            hint = "make it readable, or remove it to go on from the checkpoint before it"
            raise CikdError(f"Cannot read {path}: {error.strerror}", hint=hint, exit_code=EXIT_FAILED) from error
        why = _fault(content, run)
        if why is None:
            return path, content, damaged
        damaged[path] = why
    if damaged:
        listed = ", ".join(f"{path.name} {why}" for path, why in damaged.items())
        raise CikdError(
            f"No checkpoint in {run.checkpoints} can be used: {listed}",
            hint=f"start a new run:  cikd {run.stage} --config {run.path / 'config.toml'}",
        )
    return None, b"", {}


def sign(content: bytes) -> bytes:
    """Put the hash of a checkpoint, taken with UNSIGNED in its place, into its header."""
    return content.replace(UNSIGNED.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def _fault(content: bytes, run: RunDir) -> str | None:
    """What is wrong with the content of a checkpoint of `run`; every bit of it is under the hash in its header."""
    try:
        about = read_about(content)
    except (ValueError, TypeError, KeyError, RecursionError):
        return "is damaged (its header cannot be read)"
    unsigned = content.replace(about.sha256.encode(), UNSIGNED.encode(), 1)
    if hashlib.sha256(unsigned).hexdigest() != about.sha256:
        return "is damaged (its content is not what its checksum says)"
    return None if about.run == run.record.id else "belongs to another run"


def read_about(content: bytes) -> About:
    """The header of a checkpoint; ValueError, TypeError, KeyError or RecursionError where it is none."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return TypeAdapter(About).validate_json(header["__metadata__"]["cikd"])


def _restore(
    tensors: dict[str, Tensor],
    *,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    path: Path,
) -> None:
    try:
        method.load_state_dict(_part(tensors, "method."))
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
