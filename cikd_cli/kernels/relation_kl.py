"""The KL divergence between two relation maps (eq. 2-4): a readable form, and ones that never hold a whole map.

These make loss and gradients together in the forward pass, in chunks of a few images, or fused in Triton on a GPU, so
that of every map only a part exists, for a moment; backward multiplies by the incoming scalar.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from cikd_cli.errors import CikdError

Pair = tuple[Tensor, Tensor]  # (q, k) or (v, v), each (B, heads, tokens, head_dim)

# Elements of a map at a time: on a CPU in float32 the size of a core's second-level cache; on a GPU 64 MiB a map.
CHUNK = {"cpu": 2**18}
CHUNK_ON_GPU = 2**24


def relation_kl(teacher: Pair, student: Pair) -> Tensor:
    """KL(softmax(a b' / sqrt(d)) of the teacher || of the student), a scalar (spec 1.3, 1.4).

    teacher, student: pairs (a, b) of (B, heads, tokens, head_dim); (q, k) for QK, (v, v) for VV. Each network has its
    own head_dim; heads are paired by index. Sum over keys; mean over batch, heads and query tokens. float32 inside.
    Differentiable once, in the student. Raises CikdError when heads or tokens differ, and for a second derivative.
    """
    if teacher[0].shape[:3] != student[0].shape[:3]:
        raise CikdError(
            f"The teacher's relation maps have {_shape(teacher[0])}, the student's {_shape(student[0])}; "
            "heads are paired by index, so both must agree.",
            hint="let the student's end blocks have the teacher's heads and the same patches",
        )
    with torch.autocast(teacher[0].device.type, enabled=False):
        loss: Tensor = _RelationKL.apply(*teacher, *student)
    return loss


def why_not_fused(device: torch.device, dtype: torch.dtype, *, width: int) -> str | None:
    """None where the Triton kernels serve, else the reason for going in chunks; width: of the widest head."""
    if device.type != "cuda":
        return f"no kernel for {device.type}"
    if dtype not in (torch.bfloat16, torch.float16):
        return "products of float32 gain nothing from tensor cores"
    from cikd_cli.kernels import relation_kl_cuda

    if not relation_kl_cuda.available():
        return "Triton is missing, or the GPU is older than Ampere"
    if width > relation_kl_cuda.WIDEST_HEAD:
        return f"heads are wider than {relation_kl_cuda.WIDEST_HEAD}"
    return None


def materialised_relation_kl(teacher: Pair, student: Pair) -> Tensor:
    """The same from whole maps: the definition as autograd differentiates it, for tests and for measuring against."""
    log_t = _log_relations(*teacher).detach()
    log_s = _log_relations(*student)
    # exp(log_t) * log_t is 0 where a probability underflows, never nan: log_softmax is finite
    return (log_t.exp() * (log_t - log_s)).sum(dim=-1).mean()


class _RelationKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, teacher_a: Tensor, teacher_b: Tensor, a: Tensor, b: Tensor) -> Tensor:
        wanted = any(ctx.needs_input_grad[2:])  # type: ignore[attr-defined]
        teacher, student = (teacher_a, teacher_b), (a, b)
        width = max(teacher_a.shape[-1], a.shape[-1])
        if wanted and teacher_a.dtype == a.dtype and why_not_fused(a.device, a.dtype, width=width) is None:
            from cikd_cli.kernels.relation_kl_cuda import fused_relation_kl

            loss, *gradients = fused_relation_kl(teacher, student)
        else:
            loss, *gradients = _chunked(teacher, student, gradients=wanted)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise CikdError(
                "relation_kl can be differentiated once only.", hint="materialised_relation_kl can be twice"
            )
        of_a, of_b = ctx.saved_tensors  # type: ignore[attr-defined]
        return None, None, of_a * grad, of_b * grad


def _chunked(teacher: Pair, student: Pair, *, gradients: bool) -> tuple[Tensor, ...]:
    """The loss and, if wanted, its gradients in the student's a and b, from a few images at a time."""
    images, heads, tokens, _ = student[0].shape
    scale = student[0].shape[-1] ** -0.5
    rows = images * heads * tokens
    step = max(1, CHUNK.get(student[0].device.type, CHUNK_ON_GPU) // (heads * tokens * tokens))
    total = torch.zeros((), dtype=torch.float64, device=student[0].device)
    # an entry is about 1e-7 at a batch of 256: too small for fp16 before the loss is scaled
    exact = torch.float32 if student[0].dtype == torch.float16 else student[0].dtype
    of_a, of_b = (torch.empty_like(x, dtype=exact) if gradients else None for x in student)
    for start in range(0, images, step):
        part = slice(start, start + step)
        log_t = _log_relations(*(x[part] for x in teacher))
        log_s = _log_relations(*(x[part] for x in student))
        target = log_t.exp()
        total += log_t.sub_(log_s).mul_(target).sum(dim=-1).sum(dtype=torch.float64)
        if of_a is not None and of_b is not None:
            a, b = (_wide(x[part]) for x in student)
            difference = log_s.exp_().sub_(target).mul_(scale / rows)  # d loss / d (a b')
            of_a[part] = difference @ b
            of_b[part] = difference.transpose(-2, -1) @ a
    loss = (total / rows).to(_wide(student[0][:0]).dtype)
    return (loss,) if of_a is None or of_b is None else (loss, of_a, of_b)


def _log_relations(a: Tensor, b: Tensor) -> Tensor:
    # (B, heads, tokens, tokens); the scale goes in before the product, so that half precision inputs cannot overflow
    return F.log_softmax((_wide(a) * a.shape[-1] ** -0.5) @ _wide(b).transpose(-2, -1), dim=-1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _shape(x: Tensor) -> str:
    return f"{x.shape[1]} heads and {x.shape[2]} tokens"
