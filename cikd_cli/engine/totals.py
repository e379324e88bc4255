"""The named terms of the epoch under way, summed on the device without a sync a step."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cikd_cli.errors import EXIT_FAILED, CikdError
from cikd_cli.processes.world import World


class Totals:
    """Sums of scalar terms in float64; what a resumed run needs of them are plain numbers."""

    def __init__(self, sums: Mapping[str, float], world: World) -> None:
        self._world = world
        self._sums = {
            name: torch.tensor(value, dtype=torch.float64, device=world.device) for name, value in sums.items()
        }

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add one step's terms."""
        for name, term in terms.items():
            self._sums[name] = self._sums[name] + term if name in self._sums else term.double()

    def agree(self) -> dict[str, float]:
        """The sums, averaged over processes, as numbers; every process has to call it."""
        self._sums = {name: self._world.mean(value) for name, value in self._sums.items()}
        return {name: value.item() for name, value in self._sums.items()}

    def close(self, steps: int) -> dict[str, float]:
        """Mean terms of the epoch's `steps`, and a fresh start."""
        means = {name: value / steps for name, value in self.agree().items()}
        self._sums = {}
        return means

    def check_finite(self, *, epoch: int, step: int, rescue: str, run: str = "") -> None:
        """Stop when a term of `run` has become infinite or not a number; `rescue` is the command to go back."""
        wrong = [name for name, value in self._sums.items() if not torch.isfinite(value)]
        if wrong:
            raise _diverged(f"The loss ({', '.join(wrong)})", epoch=epoch, step=step, rescue=rescue, run=run)


def check_state(method: nn.Module, *, epoch: int, step: int, rescue: str, run: str = "") -> None:
    """Stop the run rather than save parameters or buffers that are no longer finite; one sync for all of them."""
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in method.state_dict().values()])
    if not finite.all():
        raise _diverged("The weights", epoch=epoch, step=step, rescue=rescue, run=run)


def _diverged(what: str, *, epoch: int, step: int, rescue: str, run: str) -> CikdError:
    where = f"epoch {epoch}, step {step}" + (f" of {run}" if run else "")
    return CikdError(
        f"{what} stopped being finite in {where}; the last good checkpoint is kept.",
        hint=f"a lower --lr or --precision fp32 helps; to go back:  {rescue}",
        exit_code=EXIT_FAILED,
    )
