"""Stochastic depth whose masks are a function of (seed, step, place in the global batch) alone."""

import numpy as np
import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Drop a residual branch per sample with probability `p`, and scale the kept ones by 1 / (1 - p).

    Takes its mask from `draw_masks`, rows in the order in which micro-batches come; without one it draws from the
    global generator.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.keep: Tensor | None = None  # (rows of this process in this step,)
        self.used = 0

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, tokens, width)."""
        if not self.training:
            return x
        rows = x.shape[0]
        if self.keep is None:
            keep = scaled_mask(torch.rand(rows, device=x.device), self.p)
        else:
            keep = self.keep[self.used : self.used + rows]
            self.used += rows
        return x * keep.to(x.dtype).view(-1, *([1] * (x.dim() - 1)))


def draw_masks(
    model: nn.Module, *, seed: int, step: int, rows: int, rank: int, size: int, device: torch.device
) -> None:
    """Give every StochasticDepth of `model` its mask for one step: process `rank`'s `rows` of the global batch.

    The whole batch's masks are drawn on every process, so results depend neither on the number of processes nor on
    that of micro-batches, and a resumed run repeats them without stored random state.
    """
    paths = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    if not paths:
        return
    # not torch's generator, which on a CPU looks at the low 32 bits of its seed only
    whole = np.random.default_rng([seed, step]).random((len(paths), rows * size), dtype=np.float32)
    share = np.ascontiguousarray(whole[:, rank * rows : (rank + 1) * rows])
    draws = torch.from_numpy(share).to(device, non_blocking=True)  # one copy for all blocks
    for path, row in zip(paths, draws, strict=True):
        path.keep, path.used = scaled_mask(row, path.p), 0


def scaled_mask(draws: Tensor, p: float) -> Tensor:
    """0 for the share `p` of the uniform numbers, 1 / (1 - p) for the others."""
    return (draws >= p).float() / (1 - p)
