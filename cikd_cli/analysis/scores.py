"""How often a classifier is right: over all images, over classes, and which class it takes for which."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cikd_cli.engine.predict import BEST, best_guesses, count_hits
from cikd_cli.errors import EXIT_FAILED, CikdError


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent, every image weighing the same.

    top5 counts the five best guesses, or all where there are fewer classes; balanced_accuracy is the mean over the
    classes that have images. per_class (C,) is nan for a class without images, counts (C,) holds images, and confusion
    (C, C) images of true class (row) taken for class (column).
    """

    top1: float
    top5: float
    balanced_accuracy: float
    per_class: NDArray[np.float64]
    counts: NDArray[np.int64]
    confusion: NDArray[np.int64]

    @property
    def images(self) -> int:
        """How many images were scored."""
        return int(self.counts.sum())

    def as_dict(self, classes: Sequence[str]) -> dict[str, object]:
        """Plain values for JSON, unrounded; a class without images has accuracy None."""
        rows = zip(classes, self.counts, self.confusion.diagonal(), self.per_class, strict=True)
        return {
            "top1": self.top1,
            "top5": self.top5,
            "balanced_accuracy": self.balanced_accuracy,
            "images": self.images,
            "classes": [
                {"name": name, "images": int(count), "correct": int(right), "accuracy": float(share) if count else None}
                for name, count, right, share in rows
            ],
            "confusion": self.confusion.tolist(),
        }


def score(logits: Tensor, targets: Tensor) -> Scores:
    """Score all images at once: batches must not be averaged, the last one is short.

    Args:
        logits: (n, C), any float type.
        targets: (n,) true classes 0..C-1.

    Raises:
        CikdError: there is no image, one has no label, or a logit is not finite.
    """
    from sklearn.metrics import confusion_matrix, recall_score  # slow to load, and not needed to train

    classes = logits.shape[1]
    if not len(targets):
        raise CikdError("There is no image to score.")
    if targets.min() < 0 or targets.max() >= classes:
        raise CikdError(f"An image has no label among the {classes} classes.")
    if not torch.isfinite(logits).all():
        raise CikdError("The network's logits are not finite.", exit_code=EXIT_FAILED)
    truth = targets.cpu().numpy()
    guesses = best_guesses(logits, BEST)
    best = guesses[:, 0].cpu().numpy()
    counts = np.bincount(truth, minlength=classes)
    present = np.flatnonzero(counts)
    per_class = np.full(classes, np.nan)
    per_class[present] = 100 * recall_score(truth, best, labels=present, average=None, zero_division=0)
    return Scores(
        top1=100 * float((best == truth).mean()),
        top5=100 * (count_hits(guesses, targets) / len(targets)),
        balanced_accuracy=float(per_class[present].mean()),
        per_class=per_class,
        counts=counts,
        confusion=confusion_matrix(truth, best, labels=range(classes)),
    )
