"""Predictions over a split, and the scores that training logs."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.engine.precision import autocast
from cikd_cli.models.readout import class_logits

Triple = tuple[float, float, float]

BEST = 5  # guesses of the second score, top-5


@torch.no_grad()
def predict(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    mean: Triple,
    std: Triple,
    device: torch.device,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """float32 logits (n, C) and targets (n,) on the CPU; the model is in eval mode meanwhile."""
    was_training = model.training
    model.eval()
    logits, targets = [], []
    for batch in batches:
        batch = batch.to(device)
        # blocks compiled for training batches are not compiled again for these
        with torch.compiler.set_stance("force_eager"), autocast(precision, device):
            output = class_logits(model, normalise(batch.images, mean, std))
        logits.append(output.float().cpu())
        targets.append(batch.targets.cpu())
    model.train(was_training)
    return torch.cat(logits), torch.cat(targets)


def best_guesses(logits: Tensor, k: int) -> Tensor:
    """The classes of the k highest logits, best first, (n, k); all classes where there are fewer."""
    return logits.topk(min(k, logits.shape[1]), dim=1).indices


def count_hits(guesses: Tensor, targets: Tensor) -> int:
    """How many images have their target (n,) among their guesses (n, k)."""
    return int((guesses == targets[:, None]).any(dim=1).sum())
