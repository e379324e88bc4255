"""The KL of two relation maps and its gradients from two Triton kernels that never hold a map (eq. 2-4).

With t and s the logits a b' / sqrt(d) of teacher and student, p and r their softmaxes, lse the log sum exp over keys:

    KL_i = sum_j p_ij (t_ij - s_ij) - lse(t_i) + lse(s_i)        d KL_i / d s_ij = r_ij - p_ij

A program takes one tile of queries (then of keys) of one head and walks over the tiles of the other side. Logits,
softmaxes and sums are float32 whatever the inputs are. No atomics: the same inputs give the same bits.

Importing this file imports Triton where there is one, so import it where it is called. With TRITON_INTERPRET=1 set
before that, the kernels run on a CPU, slowly.
"""
# ruff: noqa: N803 - as usual for Triton, what is known when a kernel is compiled is in capitals

from __future__ import annotations  # tl.constexpr in a signature is not looked up: Triton may be missing

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS
    triton = tl = None

WIDEST_HEAD = 128  # channels
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def available() -> bool:
    """Whether fused_relation_kl can run: Triton and a GPU it compiles for (Ampere or newer), or its interpreter."""
    if triton is None:
        return False
    return _interpreted() or (
        torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0) and _driver_builds()
    )


def fused_relation_kl(teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, d loss / d student a, d loss / d student b) of relation_kl(teacher, student) (docs/method.md).

    teacher, student: pairs (a, b) of (B, heads, tokens, head_dim) with any strides; float32, bf16 or fp16; (v, v) for
    VV, whose gradient is the sum of the two. The loss is a float32 scalar. The gradients are contiguous and of the
    student's dtype, but float32 for fp16: before the loss scale, an entry is about 1e-7 at B = 256, too small for fp16.
    Raises ValueError for shapes that do not belong together, wider heads and other dtypes.
    """
    _check(teacher, student)
    (a_t, b_t), (a_s, b_s) = _alike(*teacher), _alike(*student)
    (images, heads, tokens, width), width_t = a_s.shape, a_t.shape[-1]
    count = images * heads * tokens
    row_loss, lse_t, lse_s = torch.empty(3, count, dtype=torch.float32, device=a_s.device).unbind()
    exact = torch.float32 if a_s.dtype == torch.float16 else a_s.dtype
    grad_a, grad_b = (torch.empty(a_s.shape, dtype=exact, device=a_s.device) for _ in range(2))

    inputs = (a_t, b_t, a_s, b_s, *a_t.stride()[:3], *a_s.stride()[:3])
    # gradients are divided by `count` after the products: before them, (r - p) / count underflows in fp16
    numbers = (heads, tokens, width_t**-0.5, width**-0.5, width**-0.5 / count)
    settings = compile_settings(width_t, width, float32=torch.float32 in (a_t.dtype, a_s.dtype))
    grid = (images * heads * triton.cdiv(tokens, settings["TILE"]),)
    with torch.cuda.device_of(a_s):  # type: ignore[no-untyped-call]
        _queries_kernel[grid](*inputs, row_loss, lse_t, lse_s, grad_a, *numbers, **settings)
        _keys_kernel[grid](*inputs, lse_t, lse_s, grad_b, *numbers, **settings)
    return row_loss.mean(), grad_a, grad_b


def compile_settings(width_t: int, width_s: int, *, float32: bool) -> dict[str, int | bool]:
    """What the kernels are compiled for, given the head widths and whether an input is float32."""
    # found by compiling for sm_80 to sm_120: the largest tiles that keep their sums in registers, within 99 KiB of
    # shared memory; float32 products run outside the tensor cores and hold far more
    tile = 32 if float32 or max(width_t, width_s) > 64 else 64
    return {
        "WIDTH_T": width_t,
        "PADDED_T": max(16, triton.next_power_of_2(width_t)),  # 16: the least that a product of tiles takes
        "WIDTH_S": width_s,
        "PADDED_S": max(16, triton.next_power_of_2(width_s)),
        "TILE": tile,
        "WIDEN": _interpreted(),  # the interpreter multiplies the raw bits of bf16
        "num_warps": 4,
        "num_stages": 3 if tile == 64 else 2,
        "enable_fp_fusion": True,  # Triton 3.9 warns if it is not given
    }


@cache
def _driver_builds() -> bool:
    """Triton builds a small module at first use: without a C compiler or Python's headers it raises."""
    try:
        triton.runtime.driver.active.get_current_target()
    except Exception:  # whatever the compiler or the driver raises
        return False
    return True


def _interpreted() -> bool:
    return not isinstance(_queries_kernel, triton.JITFunction)


def _check(teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor]) -> None:
    for a, b in (teacher, student):
        if a.shape != b.shape or a.dtype != b.dtype or a.dtype not in DTYPES or a.shape[-1] > WIDEST_HEAD:
            raise ValueError(f"cannot relate a {tuple(a.shape)} {a.dtype} to b {tuple(b.shape)} {b.dtype}")
    if teacher[0].shape[:3] != student[0].shape[:3]:
        raise ValueError(f"cannot compare teacher {tuple(teacher[0].shape)} to student {tuple(student[0].shape)}")


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the same strides and channels side by side: q, k and v of one projection are so already."""
    if a.stride() == b.stride() and a.stride(-1) == 1:
        return a, b
    return a.contiguous(), b.contiguous()


def _jit(function: Callable[..., Any]) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def _queries_kernel(
    a_t: tl.tensor, b_t: tl.tensor, a_s: tl.tensor, b_s: tl.tensor,
    image_t: tl.tensor, head_t: tl.tensor, token_t: tl.tensor,
    image_s: tl.tensor, head_s: tl.tensor, token_s: tl.tensor,
    row_loss: tl.tensor, lse_t: tl.tensor, lse_s: tl.tensor, grad_a: tl.tensor,
    heads: tl.tensor, tokens: tl.tensor, scale_t: tl.tensor, scale_s: tl.tensor, scale_gradient: tl.tensor,
    WIDTH_T: tl.constexpr, PADDED_T: tl.constexpr, WIDTH_S: tl.constexpr, PADDED_S: tl.constexpr,
    TILE: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    """KL and both lse of one tile of queries of one head, and their dA = (r - p) B / sqrt(d).

    Strides are called image_t to token_s, t of the teacher's a and b, s of the student's.
    """
    number, tile = tl.program_id(0) // tl.cdiv(tokens, TILE), tl.program_id(0) % tl.cdiv(tokens, TILE)
    offset_t, offset_s = _offset(number, heads, image_t, head_t), _offset(number, heads, image_s, head_s)
    queries = tile * TILE + tl.arange(0, TILE)
    query_t = _rows(a_t + offset_t, queries, tokens, token_t, WIDTH_T, PADDED_T)
    query_s = _rows(a_s + offset_s, queries, tokens, token_s, WIDTH_S, PADDED_S)

    # not -inf, from which the first tile would make inf * 0
    top_t, top_s = tl.full([TILE], -3e38, tl.float32), tl.full([TILE], -3e38, tl.float32)
    sum_t, sum_s, excess = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32)
    for start in range(0, tokens, TILE):
        keys = start + tl.arange(0, TILE)
        inside = (keys < tokens)[None, :]
        key_t = _rows(b_t + offset_t, keys, tokens, token_t, WIDTH_T, PADDED_T)
        key_s = _rows(b_s + offset_s, keys, tokens, token_s, WIDTH_S, PADDED_S)
        t = tl.where(inside, _product(query_t, tl.trans(key_t), WIDEN) * scale_t, float("-inf"))
        s = tl.where(inside, _product(query_s, tl.trans(key_s), WIDEN) * scale_s, float("-inf"))
        new_t, new_s = tl.maximum(top_t, tl.max(t, 1)), tl.maximum(top_s, tl.max(s, 1))
        shrink_t, shrink_s = tl.exp(top_t - new_t), tl.exp(top_s - new_s)
        t, s = t - new_t[:, None], s - new_s[:, None]
        p = tl.exp(t)
        # the sum of e^(t - top_t) ((t - top_t) - (s - top_s)); from the tops, so that large logits do not cancel
        moved = excess + sum_t * ((new_s - top_s) - (new_t - top_t))
        excess = shrink_t * moved + tl.sum(tl.where(inside, p * (t - s), 0.0), 1)
        sum_t = shrink_t * sum_t + tl.sum(p, 1)
        sum_s = shrink_s * sum_s + tl.sum(tl.exp(s), 1)
        top_t, top_s = new_t, new_s

    row_t, row_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    at, exists = number.to(tl.int64) * tokens + queries, queries < tokens
    tl.store(row_loss + at, excess / sum_t + tl.log(sum_s / sum_t), mask=exists)
    tl.store(lse_t + at, row_t, mask=exists)
    tl.store(lse_s + at, row_s, mask=exists)

    gradient = tl.zeros([TILE, PADDED_S], tl.float32)
    for start in range(0, tokens, TILE):
        keys = start + tl.arange(0, TILE)
        key_t = _rows(b_t + offset_t, keys, tokens, token_t, WIDTH_T, PADDED_T)
        key_s = _rows(b_s + offset_s, keys, tokens, token_s, WIDTH_S, PADDED_S)
        t = _product(query_t, tl.trans(key_t), WIDEN) * scale_t
        s = _product(query_s, tl.trans(key_s), WIDEN) * scale_s
        difference = tl.exp(s - row_s[:, None]) - tl.exp(t - row_t[:, None])
        difference = tl.where((keys < tokens)[None, :], difference, 0.0)  # behind the last key e^(0 - lse) may be inf
        gradient += _product(difference.to(key_s.dtype), key_s, WIDEN)
    _store(grad_a, gradient * scale_gradient, number, queries, tokens, WIDTH_S, PADDED_S)


@_jit
def _keys_kernel(
    a_t: tl.tensor, b_t: tl.tensor, a_s: tl.tensor, b_s: tl.tensor,
    image_t: tl.tensor, head_t: tl.tensor, token_t: tl.tensor,
    image_s: tl.tensor, head_s: tl.tensor, token_s: tl.tensor,
    lse_t: tl.tensor, lse_s: tl.tensor, grad_b: tl.tensor,
    heads: tl.tensor, tokens: tl.tensor, scale_t: tl.tensor, scale_s: tl.tensor, scale_gradient: tl.tensor,
    WIDTH_T: tl.constexpr, PADDED_T: tl.constexpr, WIDTH_S: tl.constexpr, PADDED_S: tl.constexpr,
    TILE: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    """dB = (r - p)' A / sqrt(d) of one tile of keys of one head, from both lse of every query; arguments as above."""
    number, tile = tl.program_id(0) // tl.cdiv(tokens, TILE), tl.program_id(0) % tl.cdiv(tokens, TILE)
    offset_t, offset_s = _offset(number, heads, image_t, head_t), _offset(number, heads, image_s, head_s)
    keys = tile * TILE + tl.arange(0, TILE)
    key_t = _rows(b_t + offset_t, keys, tokens, token_t, WIDTH_T, PADDED_T)
    key_s = _rows(b_s + offset_s, keys, tokens, token_s, WIDTH_S, PADDED_S)

    gradient = tl.zeros([TILE, PADDED_S], tl.float32)
    for start in range(0, tokens, TILE):
        queries = start + tl.arange(0, TILE)
        query_t = _rows(a_t + offset_t, queries, tokens, token_t, WIDTH_T, PADDED_T)
        query_s = _rows(a_s + offset_s, queries, tokens, token_s, WIDTH_S, PADDED_S)
        t = _product(key_t, tl.trans(query_t), WIDEN) * scale_t  # (keys, queries)
        s = _product(key_s, tl.trans(query_s), WIDEN) * scale_s
        # no mask: behind the last query all is zero, and so is the difference
        at, exists = number.to(tl.int64) * tokens + queries, queries < tokens
        row_t, row_s = tl.load(lse_t + at, mask=exists, other=0.0), tl.load(lse_s + at, mask=exists, other=0.0)
        difference = tl.exp(s - row_s[None, :]) - tl.exp(t - row_t[None, :])
        gradient += _product(difference.to(query_s.dtype), query_s, WIDEN)
    _store(grad_b, gradient * scale_gradient, number, keys, tokens, WIDTH_S, PADDED_S)


@_jit
def _offset(number: tl.tensor, heads: tl.tensor, image_stride: tl.tensor, head_stride: tl.tensor) -> tl.tensor:
    """Where head `number` of the batch begins; 64 bits, since a batch may have more than 2^31 entries."""
    return (number // heads).to(tl.int64) * image_stride + (number % heads).to(tl.int64) * head_stride


@_jit
def _rows(
    start: tl.tensor, tokens: tl.tensor, count: tl.tensor, stride: tl.tensor, WIDTH: tl.constexpr, PADDED: tl.constexpr
) -> tl.tensor:
    """(TILE, PADDED): the given tokens of one head, zeros outside its `count` tokens and WIDTH channels."""
    channels = tl.arange(0, PADDED)
    exists = (tokens < count)[:, None] & (channels < WIDTH)[None, :]
    return tl.load(start + tokens[:, None] * stride + channels[None, :], mask=exists, other=0.0)


@_jit
def _product(x: tl.tensor, y: tl.tensor, WIDEN: tl.constexpr) -> tl.tensor:
    """X y in float32; the ten bits of TF32 would not do for float32 inputs."""
    if WIDEN:
        x, y = x.to(tl.float32), y.to(tl.float32)
    return tl.dot(x, y, input_precision="ieee")


@_jit
def _store(
    out: tl.tensor, x: tl.tensor, number: tl.tensor, tokens: tl.tensor, count: tl.tensor,
    WIDTH: tl.constexpr, PADDED: tl.constexpr,
) -> None:  # fmt: skip
    """Write (TILE, PADDED) over the given tokens of head `number` of the contiguous (B, heads, count, WIDTH)."""
    channels = tl.arange(0, PADDED)
    exists = (tokens < count)[:, None] & (channels < WIDTH)[None, :]
    at = (number.to(tl.int64) * count + tokens)[:, None] * WIDTH + channels[None, :]
    tl.store(out + at, x.to(out.dtype.element_ty), mask=exists)
