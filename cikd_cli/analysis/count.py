"""Work and memory of a training step, worked out on tensors without data: no noise, and no memory needed.

Operations run on fake tensors, which have shapes, types and storages but no numbers; so a batch of 256 can be followed
on any machine.
"""

import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cikd_cli.models.blocks import fuse_attention

Loss = Callable[..., Tensor]  # called with copies of the networks; makes its inputs itself


def flops(networks: Sequence[Any], loss: Loss) -> int:
    """Floating-point operations of matrix products, forward and backward; a multiply-add is two.

    Attention counts as its two products and their four in backward: what a fused kernel computes again is not work.
    """
    with faked(networks) as copies:
        for network in copies:
            _plain_attention(network)
        with FlopCounterMode(display=False) as counter:
            torch.autograd.backward(loss(*copies))
    return int(counter.get_total_flops())


def peak_bytes(networks: Sequence[Any], loss: Loss) -> int:
    """The most memory that forward and backward hold at a time beyond the networks: activations and gradients."""
    with faked(networks) as copies, _Living() as living:
        torch.autograd.backward(loss(*copies))
    return int(living.peak)


@contextmanager
def faked(networks: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Copies of networks, methods and frozen teachers without data, for operations inside this context."""
    mode = FakeTensorMode()
    with FakeCopyMode(mode):
        copies = copy.deepcopy(list(networks))
    with mode:
        yield copies


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that operations make, until nothing refers to them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak = 0, 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._add(x.untyped_storage(), given)
        return out

    def _add(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        if id(storage) in given or storage in self._known:
            return
        self._known.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.now -= size


def _plain_attention(network: Any) -> None:
    for vit in (network, getattr(getattr(network, "teacher", None), "network", None)):
        if isinstance(vit, torch.nn.Module):
            fuse_attention(vit, False)
