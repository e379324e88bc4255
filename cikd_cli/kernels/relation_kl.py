"""The KL divergence between two relation maps (eq. 2-4), from float32 log-softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cikd_cli.errors import CikdError


def relation_kl(teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor]) -> Tensor:
    """KL(softmax(a b' / sqrt(d)) of the teacher || of the student), a scalar (spec 1.3, 1.4).

    teacher, student: pairs (a, b) of (B, heads, tokens, head_dim); (q, k) for QK, (v, v) for VV. Each network has its
    own head_dim; heads are paired by index. Sum over keys; mean over batch, heads and query tokens. float32 inside.
    Raises CikdError when heads or tokens differ.
    """
    if teacher[0].shape[:3] != student[0].shape[:3]:
        raise CikdError(
            f"The teacher's relation maps have {_shape(teacher[0])}, the student's {_shape(student[0])}; "
            "heads are paired by index, so both must agree.",
            hint="let the student's end blocks have the teacher's heads and the same patches",
        )
    with torch.autocast(teacher[0].device.type, enabled=False):
        log_t = _log_relations(*teacher).detach()
        log_s = _log_relations(*student)
        # exp(log_t) * log_t is 0 where a probability underflows, never nan: log_softmax is finite
        return (log_t.exp() * (log_t - log_s)).sum(dim=-1).mean()


def _log_relations(a: Tensor, b: Tensor) -> Tensor:
    # (B, heads, tokens, tokens); the scale goes in before the product, so that half precision inputs cannot overflow
    scale = a.shape[-1] ** -0.5
    wide = torch.float64 if a.dtype == torch.float64 else torch.float32
    return F.log_softmax((a.to(wide) * scale) @ b.to(wide).transpose(-2, -1), dim=-1)


def _shape(x: Tensor) -> str:
    return f"{x.shape[1]} heads and {x.shape[2]} tokens"
