"""torch.compile of the blocks of teacher and student: when it pays, and for what."""

from typing import Any

import torch

from cikd_cli.models.frozen import teacher_of
from cikd_cli.models.network import blocks

# Compiling takes about a minute. A guess, not a measurement: 2,000 steps are about ten of ViT-Tiny at batch 256.
WORTH_STEPS = 2000


def worth_compiling(wanted: bool | None, device: torch.device, *, steps: int) -> bool:
    """What the user said; if nothing, only on a GPU with Triton, for a run long enough to earn the minute back.

    On a CPU it is off: there compiled blocks were no faster than packed ones (docs/benchmarks.md).
    """
    if wanted is not None:
        return wanted
    if device.type != "cuda" or steps < WORTH_STEPS:
        return False
    from cikd_cli.kernels.relation_kl_cuda import available

    return available()


def compile_blocks(method: Any, *, backend: str = "inductor") -> None:
    """Compile every block of the network under training and of the method's teacher, in place, for fixed shapes.

    Block by block, not the whole network: blocks share their code, so one compilation serves all that look alike.
    """
    teacher = teacher_of(method)
    torch._dynamo.reset()  # graphs of the stage before count against a limit of eight
    for network in [method.student, *([teacher.network] if teacher else [])]:
        for block in blocks(network):
            block.compile(dynamic=False, backend=backend)
