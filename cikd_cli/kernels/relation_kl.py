"""The KL divergence between two relation maps (eq. 2-4): a readable form, and ones that never hold a whole map.

These make loss and gradients together in the forward pass, in chunks of a few maps, or fused in Triton on a GPU, so
that of every map only a part exists, for a moment; backward multiplies by the incoming scalar.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.autograd.function import FunctionCtx

from cikd_cli.errors import CikdError

Pair = tuple[Tensor, Tensor]  # (q, k) or (v, v), each (B, heads, tokens, head_dim)

# Elements of a map at a time: on a CPU 2 MiB, of which each of two threads has half in its second-level cache; on a GPU
# 64 MiB.
CHUNK = {"cpu": 2**19}
CHUNK_ON_GPU = 2**24
# Between these a row's sum of powers may lie: quotients of sums and powers then neither overflow nor vanish in float32.
SMALL, LARGE = 2.0**-60, 2.0**60


def relation_kl(teacher: Pair, student: Pair) -> Tensor:
    """KL(softmax(a b' / sqrt(d)) of the teacher || of the student), a scalar (docs/method.md).

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
        return "Triton or its C compiler is missing, or the GPU is older than Ampere"
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
            shifted = a.device.type != "cpu" or is_fake(a)  # else it looks at sums: slow on a GPU
            loss, *gradients = _chunked(teacher, student, gradients=wanted, shifted=shifted)
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


def _chunked(teacher: Pair, student: Pair, *, gradients: bool, shifted: bool) -> tuple[Tensor, ...]:
    """The loss and, if wanted, its gradients in the student's a and b, from a few heads or images at a time.

    shifted: with the largest logit of each row taken off; else all begins anew with that once a sum leaves its range.
    Powers of 2 take a CPU a third of the time of those of e (docs/benchmarks.md). With logits t and s over log 2,
    x = 2^t, y = 2^s and their sums X and Y over a row, KL / log 2 = sum_j x_j (t_j - s_j) / X + log2(Y / X). In the
    natural logit Y dKL = y - x Y / X; 1 / Y is applied behind the products.
    """
    images, heads, tokens, width = student[0].shape
    rows = images * heads * tokens
    wide = torch.float64 if torch.float64 in {x.dtype for x in (*teacher, *student)} else torch.float32
    made = tuple(x.new_empty(x.shape, dtype=wide) for x in student) if gradients else ()
    most = max(1, CHUNK.get(student[0].device.type, CHUNK_ON_GPU) // (tokens * tokens))
    maps = student[0].new_empty(3, min(most, images * heads), tokens, tokens, dtype=wide)  # for all parts
    sums = maps.new_empty(3, images, heads, tokens, 1)
    scale = maps.new_full((), width**-0.5 / rows)  # a tensor: a number divided by a tensor is two operations
    values = teacher[0] is teacher[1] and student[0] is student[1]  # VV: each tensor comes twice
    parts = zip(*(_parts(x, most) for x in (*teacher, *student, *sums, *made)), strict=True)
    for c, d, a, b, sum_x, sum_y, of_difference, *gradient in parts:
        c, a = c.to(wide), a.to(wide)
        d, b = (c, a) if values else (d.to(wide), b.to(wide))
        x, y, difference = maps[:, : len(a)]
        _logits(c, d, shifted=shifted, out=x)
        _logits(a, b, shifted=shifted, out=y)
        torch.sub(x, y, out=difference)
        torch.sum(x.exp2_(), dim=-1, keepdim=True, out=sum_x)
        torch.sum(y.exp2_(), dim=-1, keepdim=True, out=sum_y)
        if not (shifted or (_in_range(sum_x) and _in_range(sum_y))):
            return _chunked(teacher, student, gradients=gradients, shifted=True)
        torch.sum(difference.mul_(x), dim=-1, keepdim=True, out=of_difference)
        if gradient:
            y.addcmul_(x, sum_y / sum_x, value=-1)
            of_row = scale / sum_y
            torch.mul(torch.bmm(y, b), of_row, out=gradient[0])
            torch.bmm(y.transpose(1, 2), a * of_row, out=gradient[1])
    bits = sums[2] / sums[0] + (sums[1] / sums[0]).log2()
    # an entry is about 1e-7 at a batch of 256: too small for fp16 before the loss is scaled
    exact = wide if student[0].dtype == torch.float16 else student[0].dtype
    loss = bits.sum(dtype=torch.float64) * (math.log(2) / rows)
    return loss.to(wide), *(x.to(exact) for x in made)


def _parts(x: Tensor, most: int) -> list[Tensor]:
    """Parts of (images, heads, tokens, width), with at most `most` maps each, as (maps, tokens, width): some heads of
    one image, or all of some images.
    """
    heads = x.shape[1]
    if most < 2 * heads:
        return [part for image in x.unbind() for part in torch.split(image, most)]
    return [part.flatten(0, 1) for part in torch.split(x, most // heads)]


def _in_range(sums: Tensor) -> bool:
    low, high = sums.aminmax()
    return low.item() > SMALL and high.item() < LARGE  # False for NaN


def _logits(a: Tensor, b: Tensor, *, shifted: bool, out: Tensor) -> None:
    """(maps, tokens, tokens), divided by log 2; if shifted, the largest of each row is 0."""
    torch.baddbmm(out, a, b.transpose(1, 2), beta=0, alpha=a.shape[-1] ** -0.5 / math.log(2), out=out)
    if shifted:
        out.sub_(out.amax(dim=-1, keepdim=True))


def _log_relations(a: Tensor, b: Tensor) -> Tensor:
    """Of (B, heads, tokens, width) pairs: log of each map."""
    return F.log_softmax((_wide(a) * a.shape[-1] ** -0.5) @ _wide(b).transpose(-2, -1), dim=-1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _shape(x: Tensor) -> str:
    return f"{x.shape[1]} heads and {x.shape[2]} tokens"
