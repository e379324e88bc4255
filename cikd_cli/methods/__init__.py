"""What each training stage optimises."""

from typing import Protocol

from torch import Tensor

from cikd_cli.data.loader import Batch


class Method(Protocol):
    """A module whose loss is the sum of its named terms, so that what is logged is what is optimised."""

    def __call__(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Scalar float32 terms; epoch counts from 0."""
