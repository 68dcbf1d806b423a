"""Query, key and value heads: QK norm and rotary positions, and their gradients.

Shape suffixes: B sequences, T positions, H query heads, K key-value heads, C head_dim, W (H + 2K) x C.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.kernels.blocks import pow2

_HEAD_TOKENS = 32
"""Tokens of one program."""

HEAD_PROGRAMS = 264
"""Programs of the backward pass for each head; each adds its sum of the gain's gradient once."""

HEAD_BACKWARD_TOKENS = 8
"""Tokens of one program, a single warp, at a time in the backward pass."""


@triton.jit
def _heads_kernel(
    qkv_ptr, q_gain_ptr, k_gain_ptr, cos_ptr, sin_ptr, q_ptr, k_ptr, v_ptr, num_tokens, seq_len, eps,
    H: tl.constexpr, KV: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    half: tl.constexpr = C // 2
    group: tl.constexpr = H // KV

    rows = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    head = tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < half
    mask = (rows < num_tokens)[:, None] & inside[None, :]

    at = rows.to(tl.int64)[:, None] * ((H + 2 * KV) * C) + head * C + columns[None, :]
    first = tl.load(qkv_ptr + at, mask, other=0.0).to(tl.float32)
    second = tl.load(qkv_ptr + at + half, mask, other=0.0).to(tl.float32)

    # Queries and keys are normed and rotated; values are only copied.
    if head < H + KV:
        if head < H:
            first_gain = tl.load(q_gain_ptr + columns, inside, other=0.0).to(tl.float32)
            second_gain = tl.load(q_gain_ptr + half + columns, inside, other=0.0).to(tl.float32)
        else:
            first_gain = tl.load(k_gain_ptr + columns, inside, other=0.0).to(tl.float32)
            second_gain = tl.load(k_gain_ptr + half + columns, inside, other=0.0).to(tl.float32)

        rstd = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / C + eps)[:, None]
        first, second = first * rstd * first_gain[None, :], second * rstd * second_gain[None, :]

        angle = (rows % seq_len)[:, None] * C + columns[None, :]
        cos = tl.load(cos_ptr + angle, mask, other=0.0)
        sin = tl.load(sin_ptr + angle, mask, other=0.0)
        rotated_first, rotated_second = first * cos - second * sin, second * cos + first * sin
        first, second = rotated_first, rotated_second

    first, second = first.to(q_ptr.dtype.element_ty), second.to(q_ptr.dtype.element_ty)
    row_start = rows.to(tl.int64)[:, None] * (H * C) + columns[None, :]

    if head < H:
        tl.store(q_ptr + row_start + head * C, first, mask)
        tl.store(q_ptr + row_start + head * C + half, second, mask)
    elif head < H + KV:
        for copy in tl.static_range(group):
            to = row_start + ((head - H) * group + copy) * C
            tl.store(k_ptr + to, first, mask)
            tl.store(k_ptr + to + half, second, mask)
    else:
        for copy in tl.static_range(group):
            to = row_start + ((head - H - KV) * group + copy) * C
            tl.store(v_ptr + to, first, mask)
            tl.store(v_ptr + to + half, second, mask)


@triton.jit
def _heads_backward_kernel(
    qkv_ptr, q_gain_ptr, k_gain_ptr, cos_ptr, sin_ptr, dq_ptr, dk_ptr, dv_ptr, dqkv_ptr, q_sum_ptr, k_sum_ptr,
    q_stride_b, q_stride_t, q_stride_h, k_stride_b, k_stride_t, k_stride_h, v_stride_b, v_stride_t, v_stride_h,
    num_tokens, seq_len, num_programs, eps,
    H: tl.constexpr, KV: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    half: tl.constexpr = C // 2
    group: tl.constexpr = H // KV

    head = tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < half

    if head < H:
        grad_ptr, copies, first_head = dq_ptr, 1, head
        stride_b, stride_t, stride_h = q_stride_b, q_stride_t, q_stride_h
        gain_ptr, sum_ptr = q_gain_ptr, q_sum_ptr
    elif head < H + KV:
        grad_ptr, copies, first_head = dk_ptr, group, (head - H) * group
        stride_b, stride_t, stride_h = k_stride_b, k_stride_t, k_stride_h
        gain_ptr, sum_ptr = k_gain_ptr, k_sum_ptr
    else:
        grad_ptr, copies, first_head = dv_ptr, group, (head - H - KV) * group
        stride_b, stride_t, stride_h = v_stride_b, v_stride_t, v_stride_h
        gain_ptr, sum_ptr = k_gain_ptr, k_sum_ptr

    first_gain = tl.load(gain_ptr + columns, inside, other=0.0).to(tl.float32)
    second_gain = tl.load(gain_ptr + half + columns, inside, other=0.0).to(tl.float32)
    first_sum = tl.zeros((BLOCK,), tl.float32)
    second_sum = tl.zeros((BLOCK,), tl.float32)

    for start in range(tl.program_id(0) * TOKENS, num_tokens, num_programs * TOKENS):
        rows = start + tl.arange(0, TOKENS)
        mask = (rows < num_tokens)[:, None] & inside[None, :]
        at = rows.to(tl.int64)[:, None] * ((H + 2 * KV) * C) + head * C + columns[None, :]
        sequence, position = (rows // seq_len).to(tl.int64), rows % seq_len
        source = (sequence * stride_b + position * stride_t)[:, None] + columns[None, :]

        dfirst = tl.zeros((TOKENS, BLOCK), tl.float32)
        dsecond = tl.zeros((TOKENS, BLOCK), tl.float32)
        # A key-value head was given to each query head of its group: their gradients add up.
        for copy in range(copies):
            of = source + (first_head + copy) * stride_h
            dfirst += tl.load(grad_ptr + of, mask, other=0.0).to(tl.float32)
            dsecond += tl.load(grad_ptr + of + half, mask, other=0.0).to(tl.float32)

        if head < H + KV:
            angle = position[:, None] * C + columns[None, :]
            cos = tl.load(cos_ptr + angle, mask, other=0.0)
            sin = tl.load(sin_ptr + angle, mask, other=0.0)
            rotated_first, rotated_second = dfirst * cos + dsecond * sin, dsecond * cos - dfirst * sin

            first = tl.load(qkv_ptr + at, mask, other=0.0).to(tl.float32)
            second = tl.load(qkv_ptr + at + half, mask, other=0.0).to(tl.float32)
            rstd = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / C + eps)[:, None]
            first, second = first * rstd, second * rstd

            first_sum += tl.sum(rotated_first * first, 0)
            second_sum += tl.sum(rotated_second * second, 0)

            scaled_first, scaled_second = rotated_first * first_gain[None, :], rotated_second * second_gain[None, :]
            mean = ((tl.sum(scaled_first * first, 1) + tl.sum(scaled_second * second, 1)) / C)[:, None]
            dfirst, dsecond = rstd * (scaled_first - first * mean), rstd * (scaled_second - second * mean)

        tl.store(dqkv_ptr + at, dfirst.to(dqkv_ptr.dtype.element_ty), mask)
        tl.store(dqkv_ptr + at + half, dsecond.to(dqkv_ptr.dtype.element_ty), mask)

    if head < H + KV:
        tl.atomic_add(sum_ptr + columns, first_sum, inside)
        tl.atomic_add(sum_ptr + half + columns, second_sum, inside)


def heads(
    qkv_BTW: Tensor, q_gain_C: Tensor, k_gain_C: Tensor, cos_TC: Tensor, sin_TC: Tensor, H: int, K: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Split one product into heads: queries and keys normed and rotated, each key-value head given to its group.

    Args:
        qkv_BTW: Queries, keys and values of all heads beside each other.
        q_gain_C: Gain of the query norm.
        k_gain_C: Gain of the key norm.
        cos_TC: Cosines of the rotary angles, fp32, contiguous.
        sin_TC: Sines.
        H: Query heads.
        K: Key-value heads.
        eps: Added to the mean squares of the norms.

    Returns:
        q, k and v, each [B, T, H, C].
    """
    B, T, width = qkv_BTW.shape
    C = width // (H + 2 * K)

    q, k, v = (qkv_BTW.new_empty(B, T, H, C) for _ in range(3))
    _heads_kernel[(triton.cdiv(B * T, _HEAD_TOKENS), H + 2 * K)](
        qkv_BTW, q_gain_C, k_gain_C, cos_TC, sin_TC, q, k, v, B * T, T, eps,
        H=H, KV=K, C=C, BLOCK=pow2(C // 2), TOKENS=_HEAD_TOKENS,
    )  # fmt: skip
    return q, k, v


def heads_backward(
    qkv_BTW: Tensor,
    q_gain_C: Tensor,
    k_gain_C: Tensor,
    cos_TC: Tensor,
    sin_TC: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    gain_sums_C: tuple[Tensor, Tensor],
    H: int,
    K: int,
    eps: float,
) -> Tensor:
    """Return the gradient of qkv [B, T, W]; the gradients of both gains are added to `gain_sums_C`.

    Args:
        qkv_BTW: As `heads` takes it.
        q_gain_C: Gain of the query norm.
        k_gain_C: Gain of the key norm.
        cos_TC: Cosines of the rotary angles, fp32, contiguous.
        sin_TC: Sines.
        dq: Gradient of the queries, [B, T, H, C] of any strides.
        dk: Gradient of the keys, likewise.
        dv: Gradient of the values, likewise.
        gain_sums_C: fp32, of queries and of keys; changed in place.
        H: Query heads.
        K: Key-value heads.
        eps: Added to the mean squares of the norms.
    """
    B, T, width = qkv_BTW.shape
    C = width // (H + 2 * K)
    # The kernel takes any strides but that of the last dimension.
    dq, dk, dv = (each if each.stride(-1) == 1 else each.contiguous() for each in (dq, dk, dv))

    programs = min(HEAD_PROGRAMS, triton.cdiv(B * T, HEAD_BACKWARD_TOKENS))
    dqkv_BTW = torch.empty_like(qkv_BTW)

    _heads_backward_kernel[(programs, H + 2 * K)](
        qkv_BTW,
        q_gain_C,
        k_gain_C,
        cos_TC,
        sin_TC,
        dq,
        dk,
        dv,
        dqkv_BTW,
        *gain_sums_C,
        *dq.stride()[:3],
        *dk.stride()[:3],
        *dv.stride()[:3],
        B * T,
        T,
        programs,
        eps,
        H=H,
        KV=K,
        C=C,
        BLOCK=pow2(C // 2),
        TOKENS=HEAD_BACKWARD_TOKENS,
        num_warps=1,
    )
    return dqkv_BTW
