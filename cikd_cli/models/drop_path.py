"""Stochastic depth whose masks are a function of (seed, step, place in the global batch) alone."""

import numpy as np
import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Drop a residual branch per sample with probability `p`, and scale the kept ones by 1 / (1 - p).

    Takes its mask from `use_draws`; without one it draws from the global generator.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.keep: Tensor | None = None  # (B,): 0 for a dropped sample, else 1 / (1 - p)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, tokens, width)."""
        if not self.training:
            return x
        keep = self.keep
        if keep is None:
            keep = _scaled(torch.rand(x.shape[0], device=x.device), self.p)
        return x * keep.to(x.dtype).view(x.shape[0], *([1] * (x.dim() - 1)))


def draw(model: nn.Module, *, seed: int, step: int, rows: int, rank: int, size: int) -> Tensor:
    """Uniform numbers for process `rank`'s `rows` of the global batch of one step, (StochasticDepths, rows).

    The whole batch's are drawn on every process, so results depend neither on the number of processes nor on that of
    micro-batches, and a resumed run repeats them without stored random state.
    """
    # not torch's generator, which on a CPU looks at the low 32 bits of its seed only
    whole = np.random.default_rng([seed, step]).random((len(_paths(model)), rows * size), dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(whole[:, rank * rows : (rank + 1) * rows]))


def use_draws(model: nn.Module, draws: Tensor | None) -> None:
    """Give every StochasticDepth its row of `draws` (StochasticDepths, B), or let them draw for themselves again."""
    paths = _paths(model)
    for path, row in zip(paths, draws if draws is not None else [None] * len(paths), strict=True):
        path.keep = None if row is None else _scaled(row, path.p)


def _scaled(draws: Tensor, p: float) -> Tensor:
    return (draws >= p).float() / (1 - p)


def _paths(model: nn.Module) -> list[StochasticDepth]:
    return [module for module in model.modules() if isinstance(module, StochasticDepth)]
