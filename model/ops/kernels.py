"""Triton kernels for what lies between the matrix products: one pass over memory each, no waiting for the host.

Everything here is bound by memory; matrix products stay with cuBLAS and torch's grouped product. Sums are taken in
fp32 and rounded once, when they are stored. Each kernel is followed or preceded by its launcher, a plain function that
allocates the results and states their shapes.

Shape suffixes: N tokens, D width, B sequences, T positions, H query heads, K key-value heads or chosen experts,
C head_dim, W (H + 2K) x C, E experts, S slots (N x K), F d_ff, R rows, V vocabulary, P programs or blocks.

In kernels "at", "to" and "of" are offsets into a tensor; masks are called "mask", "live" (rows) or "inside" (columns).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows (tokens) of one program.
_NORM_ROWS = 4
_NORM_BACKWARD_ROWS = 16
NORM_PROGRAMS = 264
HEAD_PROGRAMS = 66
"""Programs of a backward pass over tokens, here and in NORM_PROGRAMS; each adds its sum of the gain's gradient once."""
_HEAD_TOKENS = 32
HEAD_BACKWARD_TOKENS = 64
_ROUTER_TOKENS = 32
ROUTER_PARTS = 3
"""Summands in half precision that together keep the digits of a fp32 weight."""
LANES, LANE_DEPTH = 8192, 2
"""Logits that the cross-entropy reads at a time: LANES x LANE_DEPTH."""


def _pow2(number: int) -> int:
    return int(triton.next_power_of_2(number))


# --- residual addition and RMS norm ---------------------------------------------------------------------------


@triton.jit
def _add_norm_kernel(
    x_ptr, y_ptr, gain_ptr, sum_ptr, out_ptr, rstd_ptr, num_rows, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    mask = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]

    at = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    x = tl.load(x_ptr + at, mask, other=0.0).to(tl.float32)
    if ADD:
        rounded = (x + tl.load(y_ptr + at, mask, other=0.0).to(tl.float32)).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, mask)
        x = rounded.to(tl.float32)  # the norm sees what is stored, as the backward pass will

    rstd = tl.rsqrt(tl.sum(x * x, 1) / WIDTH + eps)
    gain = tl.load(gain_ptr + columns, columns < WIDTH, other=0.0).to(tl.float32)
    out = x * rstd[:, None] * gain[None, :]

    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask)
    tl.store(rstd_ptr + rows, rstd, rows < num_rows)


@triton.jit
def _add_norm_backward_kernel(
    sum_ptr, gain_ptr, rstd_ptr, dout_ptr, dsum_ptr, dx_ptr, dgain_ptr, num_rows, num_programs,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, HAS_DSUM: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, BLOCK)
    gain = tl.load(gain_ptr + columns, columns < WIDTH, other=0.0).to(tl.float32)
    dgain = tl.zeros((BLOCK,), tl.float32)

    for start in range(tl.program_id(0) * ROWS, num_rows, num_programs * ROWS):
        rows = start + tl.arange(0, ROWS)
        mask = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
        at = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]

        x = tl.load(sum_ptr + at, mask, other=0.0).to(tl.float32)
        dout = tl.load(dout_ptr + at, mask, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_ptr + rows, rows < num_rows, other=0.0)

        normed = x * rstd[:, None]
        scaled = dout * gain[None, :]
        dx = rstd[:, None] * (scaled - normed * (tl.sum(scaled * normed, 1) / WIDTH)[:, None])
        if HAS_DSUM:
            dx += tl.load(dsum_ptr + at, mask, other=0.0).to(tl.float32)

        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask)
        dgain += tl.sum(dout * normed, 0)

    tl.atomic_add(dgain_ptr + columns, dgain, columns < WIDTH)


def add_norm(x_ND: Tensor, y_ND: Tensor | None, gain_D: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return x + y (or x itself where y is None), its RMS norm times the gain, and the norm's factors.

    The factors are the reciprocal root mean squares [N] in fp32, which the backward pass needs.
    """
    num_rows, width = x_ND.shape
    total_ND = x_ND if y_ND is None else torch.empty_like(x_ND)
    out_ND, rstd_N = torch.empty_like(x_ND), x_ND.new_empty(num_rows, dtype=torch.float32)

    _add_norm_kernel[(triton.cdiv(num_rows, _NORM_ROWS),)](
        x_ND, x_ND if y_ND is None else y_ND, gain_D, total_ND, out_ND, rstd_N, num_rows, eps,
        WIDTH=width, BLOCK=_pow2(width), ROWS=_NORM_ROWS, ADD=y_ND is not None,
    )  # fmt: skip
    return total_ND, out_ND, rstd_N


def add_norm_backward(
    total_ND: Tensor, gain_D: Tensor, rstd_N: Tensor, dout_ND: Tensor, dtotal_ND: Tensor | None, gain_sum_D: Tensor
) -> Tensor:
    """Return the gradient of either summand [N, D]; the gain's gradient is added to `gain_sum_D` (fp32).

    Args:
        total_ND: The sum that `add_norm` returned.
        gain_D: Gain of the norm.
        rstd_N: The factors that `add_norm` returned.
        dout_ND: Gradient of the norm, contiguous.
        dtotal_ND: Gradient of the sum itself; None for none.
        gain_sum_D: fp32, changed in place.
    """
    num_rows, width = total_ND.shape
    num_programs = min(NORM_PROGRAMS, triton.cdiv(num_rows, _NORM_BACKWARD_ROWS))
    dx_ND = torch.empty_like(total_ND)

    _add_norm_backward_kernel[(num_programs,)](
        total_ND,
        gain_D,
        rstd_N,
        dout_ND,
        dout_ND if dtotal_ND is None else dtotal_ND,
        dx_ND,
        gain_sum_D,
        num_rows,
        num_programs,
        WIDTH=width,
        BLOCK=_pow2(width),
        ROWS=_NORM_BACKWARD_ROWS,
        HAS_DSUM=dtotal_ND is not None,
        num_warps=8,
    )
    return dx_ND


# --- query, key and value heads: QK norm and rotary positions ----------------------------------------------------


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

    # Queries and keys are normed and turned; values are only copied.
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
        turned_first, turned_second = first * cos - second * sin, second * cos + first * sin
        first, second = turned_first, turned_second

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
            turned_first, turned_second = dfirst * cos + dsecond * sin, dsecond * cos - dfirst * sin

            first = tl.load(qkv_ptr + at, mask, other=0.0).to(tl.float32)
            second = tl.load(qkv_ptr + at + half, mask, other=0.0).to(tl.float32)
            rstd = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / C + eps)[:, None]
            first, second = first * rstd, second * rstd

            first_sum += tl.sum(turned_first * first, 0)
            second_sum += tl.sum(turned_second * second, 0)

            scaled_first, scaled_second = turned_first * first_gain[None, :], turned_second * second_gain[None, :]
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
    """Split one product into heads: queries and keys normed and turned, each key-value head given to its group.

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
        H=H, KV=K, C=C, BLOCK=_pow2(C // 2), TOKENS=_HEAD_TOKENS,
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
        BLOCK=_pow2(C // 2),
        TOKENS=HEAD_BACKWARD_TOKENS,
    )
    return dqkv_BTW


# --- router ------------------------------------------------------------------------------------------------------


@triton.jit
def _split_kernel(weight_ptr, parts_ptr, num_rows, width, padded, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    rest = tl.load(weight_ptr + row * width + columns, mask & (row < num_rows), other=0.0)

    for part in tl.static_range(PARTS):
        rounded = rest.to(parts_ptr.dtype.element_ty)
        tl.store(parts_ptr + (part * padded + row) * width + columns, rounded, mask)
        rest -= rounded.to(tl.float32)


@triton.jit
def _router_kernel(
    logits_ptr, probs_ptr, lse_ptr, chosen_ptr, share_ptr, count_ptr, prob_sum_ptr, num_tokens, num_blocks, padded,
    PARTS: tl.constexpr, E: tl.constexpr, EXPERTS: tl.constexpr, K: tl.constexpr, NORMALISES: tl.constexpr,
    TOKENS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    rows = block * TOKENS + tl.arange(0, TOKENS)
    experts = tl.arange(0, EXPERTS)
    live = rows < num_tokens
    valid = live[:, None] & (experts < E)[None, :]

    logits = tl.where((experts < E)[None, :], tl.zeros((TOKENS, EXPERTS), tl.float32), -float("inf"))
    for part in tl.static_range(PARTS):
        at = (rows[:, None] * PARTS + part) * padded + experts[None, :]
        logits += tl.load(logits_ptr + at, valid, other=0.0)

    top = tl.max(logits, 1)
    lse = top + tl.log(tl.sum(tl.exp(logits - top[:, None]), 1))
    probs = tl.exp(logits - lse[:, None])

    tl.store(probs_ptr + rows[:, None] * E + experts[None, :], probs, valid)
    tl.store(lse_ptr + rows, lse, live)
    tl.store(prob_sum_ptr + block * E + experts, tl.sum(tl.where(live[:, None], probs, 0.0), 0), experts < E)

    # A diverged run's NaN must not choose: as zeros, tokens still fill every slot, and their shares are NaN.
    eligible = tl.where((experts < E)[None, :], tl.where(probs == probs, probs, 0.0), -1.0)

    # Twice the same choices: the shares need the sum over all of them.
    left = eligible
    total = tl.zeros((TOKENS,), tl.float32)
    counts = tl.zeros((EXPERTS,), tl.int32)
    for _ in tl.static_range(K):
        is_best = experts[None, :] == tl.argmax(left, 1)[:, None]
        total += tl.max(left, 1)
        counts += tl.sum((is_best & live[:, None]).to(tl.int32), 0)
        left = tl.where(is_best, -1.0, left)
    tl.store(count_ptr + experts * num_blocks + block, counts, experts < E)

    left = eligible
    for choice in tl.static_range(K):
        best = tl.argmax(left, 1)
        tl.store(chosen_ptr + rows * K + choice, best.to(tl.int32), live)
        if NORMALISES:
            share = tl.max(left, 1) / total
        else:
            share = tl.sum(tl.where(experts[None, :] == best[:, None], probs, 0.0), 1)
        tl.store(share_ptr + rows * K + choice, share, live)
        left = tl.where(experts[None, :] == best[:, None], -1.0, left)


@triton.jit
def _router_backward_kernel(
    probs_ptr, chosen_ptr, share_ptr, dshare_ptr, dprob_sum_ptr, dlse_ptr, dlogits_ptr, num_tokens, padded,
    E: tl.constexpr, EXPERTS: tl.constexpr, K: tl.constexpr, NORMALISES: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    rows = block * TOKENS + tl.arange(0, TOKENS)
    experts = tl.arange(0, EXPERTS)
    live = rows < num_tokens
    valid = live[:, None] & (experts < E)[None, :]

    probs = tl.load(probs_ptr + rows[:, None] * E + experts[None, :], valid, other=0.0)
    dprobs = tl.load(dprob_sum_ptr + block * E + experts, experts < E, other=0.0)[None, :] + tl.zeros_like(probs)

    # The shares are the chosen probabilities, over their sum where they are normalised.
    mean = tl.zeros((TOKENS,), tl.float32)
    total = tl.zeros((TOKENS,), tl.float32)
    for choice in tl.static_range(K):
        dshare = tl.load(dshare_ptr + rows * K + choice, live, other=0.0)
        mean += dshare * tl.load(share_ptr + rows * K + choice, live, other=0.0)
        chosen = tl.load(chosen_ptr + rows * K + choice, live, other=0)
        total += tl.sum(tl.where(experts[None, :] == chosen[:, None], probs, 0.0), 1)

    for choice in tl.static_range(K):
        chosen = tl.load(chosen_ptr + rows * K + choice, live, other=0)
        dshare = tl.load(dshare_ptr + rows * K + choice, live, other=0.0)
        if NORMALISES:
            dshare = (dshare - mean) / total
        dprob = tl.where(live, dshare, 0.0)
        dprobs += tl.where(experts[None, :] == chosen[:, None], dprob[:, None], 0.0)

    dlogits = probs * (dprobs - tl.sum(dprobs * probs, 1)[:, None])
    dlogits += probs * tl.load(dlse_ptr + rows, live, other=0.0)[:, None]

    at = rows.to(tl.int64)[:, None] * padded + experts[None, :]
    kind = dlogits_ptr.dtype.element_ty
    tl.store(dlogits_ptr + at, dlogits.to(kind), live[:, None] & (experts < padded)[None, :])


def router_block(seq_len: int) -> int:
    """Return the tokens of one program: a power of two that divides the sequence, so that no program spans two."""
    return min(_ROUTER_TOKENS, seq_len & -seq_len)


def split_router(weight_ED: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a fp32 weight as three summands in half precision, which together keep its digits.

    The products of half-precision inputs with each of them, summed in fp32, are the product with the fp32 weight.

    Args:
        weight_ED: fp32.
        dtype: bf16 or fp16.

    Returns:
        [3 x padded experts, D]; the experts are padded with zeros to a multiple of 8.
    """
    E, width = weight_ED.shape
    padded = triton.cdiv(E, 8) * 8
    parts = weight_ED.new_empty(ROUTER_PARTS * padded, width, dtype=dtype)
    _split_kernel[(padded,)](weight_ED, parts, E, width, padded, PARTS=ROUTER_PARTS, BLOCK=_pow2(width))
    return parts


def route(logits: Tensor, parts: int, num_experts: int, top_k: int, normalises: bool, block: int) -> tuple[Tensor, ...]:
    """Choose each token's experts.

    Args:
        logits: Summands of the logits, fp32, [N, parts x padded experts].
        parts: Number of summands beside each other.
        num_experts: Experts, without padding.
        top_k: Experts per token.
        normalises: Whether a token's weights are divided by their sum.
        block: Tokens of one program, a divisor of N.

    Returns:
        share_NK (fp32), chosen_NK (int32), probs_NE (fp32), lse_N (fp32), and for each block of tokens each expert's
        slots [E, P] (int32) and the sum of its probabilities [P, E] (fp32).
    """
    N, E = logits.shape[0], num_experts
    blocks = N // block
    share_NK, probs_NE, lse_N, prob_sum_PE = (
        logits.new_empty(shape) for shape in ((N, top_k), (N, E), (N,), (blocks, E))
    )
    chosen_NK, count_EP = (logits.new_empty(shape, dtype=torch.int32) for shape in ((N, top_k), (E, blocks)))

    _router_kernel[(blocks,)](
        logits,
        probs_NE,
        lse_N,
        chosen_NK,
        share_NK,
        count_EP,
        prob_sum_PE,
        N,
        blocks,
        logits.shape[1] // parts,
        PARTS=parts,
        E=E,
        EXPERTS=_pow2(max(E, 2)),
        K=top_k,
        NORMALISES=normalises,
        TOKENS=block,
    )
    return share_NK, chosen_NK, probs_NE, lse_N, count_EP, prob_sum_PE


def route_backward(
    probs_NE: Tensor,
    chosen_NK: Tensor,
    share_NK: Tensor,
    dshare_NK: Tensor,
    dprob_sum_PE: Tensor,
    dlse_N: Tensor,
    normalises: bool,
    block: int,
    padded: int,
    dtype: torch.dtype,
) -> Tensor:
    """Return the gradient of the logits, [N, padded experts] in `dtype`; padding gets zeros.

    Args:
        probs_NE: As `route` returned them, like the next two.
        chosen_NK: Experts of each token.
        share_NK: Their weights.
        dshare_NK: Gradient of the weights, fp32.
        dprob_sum_PE: Gradient of the blocks' sums of probabilities, fp32.
        dlse_N: Gradient of the log-sum-exps, fp32.
        normalises: As for `route`, like the next one.
        block: Tokens of one program.
        padded: Experts, padding included.
        dtype: Number format of the result.
    """
    N, E = probs_NE.shape
    dlogits = probs_NE.new_empty(N, padded, dtype=dtype)

    _router_backward_kernel[(N // block,)](
        probs_NE,
        chosen_NK,
        share_NK,
        dshare_NK,
        dprob_sum_PE,
        dlse_N,
        dlogits,
        N,
        padded,
        E=E,
        EXPERTS=_pow2(max(padded, 2)),
        K=chosen_NK.shape[1],
        NORMALISES=normalises,
        TOKENS=block,
    )
    return dlogits


@triton.jit
def _slots_kernel(
    chosen_ptr, count_ptr, end_ptr, order_ptr, inverse_ptr, num_blocks, num_slots,
    SLOTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    inside = tl.arange(0, WIDTH)
    slots = block * SLOTS + inside
    live = (inside < SLOTS) & (slots < num_slots)
    expert = tl.load(chosen_ptr + slots, live, other=-1)

    # A slot's place: where its expert's slots of this block begin, and its rank among them.
    earlier = (inside[None, :] < inside[:, None]) & (expert[None, :] == expert[:, None])
    rank = tl.sum(earlier.to(tl.int32), 1)
    block_at = expert * num_blocks + block
    start = tl.load(end_ptr + block_at, live, other=0) - tl.load(count_ptr + block_at, live, other=0)

    tl.store(inverse_ptr + slots, start + rank, live)
    tl.store(order_ptr + start + rank, slots, live)


def sort_slots(chosen_NK: Tensor, count_EP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort slots by expert, keeping their order within one: a counting sort over the router's blocks.

    Args:
        chosen_NK: Expert of each slot, int32.
        count_EP: Slots of each expert in each of the router's blocks, int32.

    Returns:
        order_S (sorted place -> slot), inverse_S (slot -> sorted place) and the end of each expert's slots
        [E], all int32.
    """
    num_slots, (E, blocks) = chosen_NK.numel(), count_EP.shape
    end_EP = count_EP.view(-1).cumsum(0, dtype=torch.int32).view(E, blocks)

    order_S, inverse_S = (torch.empty(num_slots, dtype=torch.int32, device=chosen_NK.device) for _ in range(2))
    slots = num_slots // blocks

    _slots_kernel[(blocks,)](
        chosen_NK,
        count_EP,
        end_EP,
        order_S,
        inverse_S,
        blocks,
        num_slots,
        SLOTS=slots,
        WIDTH=_pow2(max(slots, 2)),
    )
    return order_S, inverse_S, end_EP[:, -1].contiguous()


# --- tokens to slots and back ------------------------------------------------------------------------------------


@triton.jit
def _scatter_kernel(
    x_ptr, order_ptr, out_ptr, num_slots,
    K: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    live = rows < num_slots
    mask = live[:, None] & (columns < WIDTH)[None, :]

    token = (tl.load(order_ptr + rows, live, other=0) // K).to(tl.int64)
    x = tl.load(x_ptr + token[:, None] * WIDTH + columns[None, :], mask, other=0.0)
    tl.store(out_ptr + rows.to(tl.int64)[:, None] * WIDTH + columns[None, :], x, mask)


@triton.jit
def _gather_sum_kernel(
    y_ptr, inverse_ptr, out_ptr, num_tokens,
    K: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    live = rows < num_tokens
    mask = live[:, None] & (columns < WIDTH)[None, :]

    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for choice in tl.static_range(K):
        place = tl.load(inverse_ptr + rows * K + choice, live, other=0).to(tl.int64)
        total += tl.load(y_ptr + place[:, None] * WIDTH + columns[None, :], mask, other=0.0).to(tl.float32)

    at = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask)


def to_slots(x_ND: Tensor, order_S: Tensor, top_k: int) -> Tensor:
    """Return each sorted slot's token, [S, D]."""
    num_slots, width = len(order_S), x_ND.shape[1]
    out_SD = x_ND.new_empty(num_slots, width)

    _scatter_kernel[(triton.cdiv(num_slots, _NORM_ROWS),)](
        x_ND, order_S, out_SD, num_slots, K=top_k, WIDTH=width, BLOCK=_pow2(width), ROWS=_NORM_ROWS
    )
    return out_SD


def from_slots(y_SD: Tensor, inverse_S: Tensor, top_k: int) -> Tensor:
    """Return the sum over each token's slots, [N, D]."""
    num_tokens, width = len(inverse_S) // top_k, y_SD.shape[1]
    out_ND = y_SD.new_empty(num_tokens, width)

    _gather_sum_kernel[(triton.cdiv(num_tokens, _NORM_ROWS),)](
        y_SD, inverse_S, out_ND, num_tokens, K=top_k, WIDTH=width, BLOCK=_pow2(width), ROWS=_NORM_ROWS
    )
    return out_ND


# --- SwiGLU ------------------------------------------------------------------------------------------------------


@triton.jit
def _swiglu_kernel(
    gate_up_ptr, share_ptr, order_ptr, out_ptr, num_slots, F: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = rows < num_slots
    mask = live[:, None] & (columns < F)[None, :]

    at = rows.to(tl.int64)[:, None] * (2 * F) + columns[None, :]
    gate = tl.load(gate_up_ptr + at, mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + at + F, mask, other=0.0).to(tl.float32)
    share = tl.load(share_ptr + tl.load(order_ptr + rows, live, other=0), live, other=0.0)

    hidden = gate * tl.sigmoid(gate) * up * share[:, None]
    to = rows.to(tl.int64)[:, None] * F + columns[None, :]
    tl.store(out_ptr + to, hidden.to(out_ptr.dtype.element_ty), mask)


@triton.jit
def _swiglu_backward_kernel(
    gate_up_ptr, share_ptr, order_ptr, dhidden_ptr, dgate_up_ptr, hidden_ptr, dshare_ptr, num_slots,
    F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(order_ptr + row)
    share = tl.load(share_ptr + slot)
    dshare = tl.zeros((BLOCK,), tl.float32)

    for start in range(0, F, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        mask = columns < F

        gate = tl.load(gate_up_ptr + row * (2 * F) + columns, mask, other=0.0).to(tl.float32)
        up = tl.load(gate_up_ptr + row * (2 * F) + F + columns, mask, other=0.0).to(tl.float32)
        dhidden = tl.load(dhidden_ptr + row * F + columns, mask, other=0.0).to(tl.float32)

        sigmoid = tl.sigmoid(gate)
        silu = gate * sigmoid
        product = silu * up
        dshare += dhidden * product

        dproduct = dhidden * share
        dgate = dproduct * up * (sigmoid + silu * (1.0 - sigmoid))

        kind = dgate_up_ptr.dtype.element_ty
        tl.store(dgate_up_ptr + row * (2 * F) + columns, dgate.to(kind), mask)
        tl.store(dgate_up_ptr + row * (2 * F) + F + columns, (dproduct * silu).to(kind), mask)
        tl.store(hidden_ptr + row * F + columns, (product * share).to(kind), mask)

    tl.store(dshare_ptr + slot, tl.sum(dshare, 0))


def swiglu(gate_up_SF: Tensor, share_NK: Tensor, order_S: Tensor) -> Tensor:
    """Return silu(gate) x up x the slot's share, [S, d_ff], of sorted slots; shares are in token order."""
    num_slots, F = gate_up_SF.shape[0], gate_up_SF.shape[1] // 2
    out_SF = gate_up_SF.new_empty(num_slots, F)
    block = min(1024, _pow2(F))

    _swiglu_kernel[(triton.cdiv(num_slots, 2), triton.cdiv(F, block))](
        gate_up_SF, share_NK, order_S, out_SF, num_slots, F=F, BLOCK=block, ROWS=2
    )
    return out_SF


def swiglu_backward(
    gate_up_SF: Tensor, share_NK: Tensor, order_S: Tensor, dhidden_SF: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of gate and up [S, 2 x d_ff], `swiglu`'s result again, and the gradient of the shares."""
    num_slots, F = gate_up_SF.shape[0], gate_up_SF.shape[1] // 2
    dgate_up_SF, hidden_SF = torch.empty_like(gate_up_SF), gate_up_SF.new_empty(num_slots, F)
    dshare_NK = torch.empty_like(share_NK)

    _swiglu_backward_kernel[(num_slots,)](
        gate_up_SF, share_NK, order_S, dhidden_SF, dgate_up_SF, hidden_SF, dshare_NK, num_slots,
        F=F, BLOCK=min(1024, _pow2(F)),
    )  # fmt: skip
    return dgate_up_SF, hidden_SF, dshare_NK


# --- cross-entropy -----------------------------------------------------------------------------------------------


@triton.jit
def _cross_entropy_kernel(
    logits_ptr, target_ptr, loss_ptr, right_ptr, scale_ptr, vocab,
    LANES: tl.constexpr, DEPTH: tl.constexpr, GRAD: tl.constexpr,
):  # fmt: skip
    # Each lane keeps its own maximum and sum over DEPTH logits at a time: no exchange between threads until the
    # end, and little more than one exponential for each logit. Powers of two throughout.

    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * vocab
    log2e: tl.constexpr = 1.4426950408889634
    lanes = tl.arange(0, LANES)
    tile = tl.arange(0, DEPTH)[:, None] * LANES + lanes[None, :]
    whole = vocab // (DEPTH * LANES) * (DEPTH * LANES)

    target = tl.load(target_ptr + row)
    # Read before the reduction, which keeps it apart from the stores that replace the logits.
    logit = tl.load(logits_ptr + target).to(tl.float32) * log2e

    top = tl.full((LANES,), -1e30, tl.float32)
    total = tl.zeros((LANES,), tl.float32)

    for start in range(0, whole, DEPTH * LANES):
        x = tl.load(logits_ptr + start + tile).to(tl.float32) * log2e
        new_top = tl.maximum(top, tl.max(x, 0))
        total = total * tl.exp2(top - new_top) + tl.sum(tl.exp2(x - new_top[None, :]), 0)
        top = new_top

    for start in range(whole, vocab, LANES):
        x = tl.load(logits_ptr + start + lanes, start + lanes < vocab, other=-float("inf")).to(tl.float32) * log2e
        new_top = tl.maximum(top, x)
        total = total * tl.exp2(top - new_top) + tl.exp2(x - new_top)
        top = new_top

    highest = tl.max(top, 0)
    lse = highest + tl.log2(tl.sum(total * tl.exp2(top - highest), 0))
    tl.store(loss_ptr + row, (lse - logit) / log2e)

    if GRAD:
        scale = tl.load(scale_ptr)
        kind = logits_ptr.dtype.element_ty
        for start in range(0, whole, DEPTH * LANES):
            x = tl.load(logits_ptr + start + tile).to(tl.float32) * log2e
            grad = (tl.exp2(x - lse) - (start + tile == target).to(tl.float32)) * scale
            tl.store(logits_ptr + start + tile, grad.to(kind))
        for start in range(whole, vocab, LANES):
            mask = start + lanes < vocab
            x = tl.load(logits_ptr + start + lanes, mask, other=0.0).to(tl.float32) * log2e
            grad = (tl.exp2(x - lse) - (start + lanes == target).to(tl.float32)) * scale
            tl.store(logits_ptr + start + lanes, grad.to(kind), mask)
    else:
        tl.store(right_ptr + row, (logit >= highest).to(tl.float32))


def cross_entropy_(logits_RV: Tensor, targets_R: Tensor, scale: Tensor) -> Tensor:
    """Replace logits by the gradient of scale x the summed loss, and return each row's loss, [R] in fp32 (nats)."""
    num_rows, vocab = logits_RV.shape
    loss_R = logits_RV.new_empty(num_rows, dtype=torch.float32)

    _cross_entropy_kernel[(num_rows,)](
        logits_RV, targets_R, loss_R, loss_R, scale, vocab, LANES=LANES, DEPTH=LANE_DEPTH, GRAD=True, num_warps=16
    )
    return loss_R


def score(logits_RV: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's loss (nats) and whether its target has the highest logit (1 or 0), both [R] in fp32."""
    num_rows, vocab = logits_RV.shape
    loss_R, right_R = (logits_RV.new_empty(num_rows, dtype=torch.float32) for _ in range(2))

    _cross_entropy_kernel[(num_rows,)](
        logits_RV, targets_R, loss_R, right_R, loss_R, vocab, LANES=LANES, DEPTH=LANE_DEPTH, GRAD=False, num_warps=16
    )
    return loss_R, right_R


# --- optimizer ---------------------------------------------------------------------------------------------------


@triton.jit
def _momentum_kernel(grad_ptr, momentum_ptr, update_ptr, factor_ptr, keep_ptr, beta_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count

    keep = tl.load(keep_ptr)
    grad = tl.where(keep > 0.0, tl.load(grad_ptr + at, mask, other=0.0) * tl.load(factor_ptr), 0.0)

    beta = tl.load(beta_ptr)
    momentum = tl.load(momentum_ptr + at, mask, other=0.0)
    momentum += (1.0 - beta) * keep * (grad - momentum)
    tl.store(momentum_ptr + at, momentum, mask)

    update = grad + beta * (momentum - grad)
    tl.store(update_ptr + at, update.to(update_ptr.dtype.element_ty), mask)


@triton.jit
def _apply_kernel(
    weight_ptr, copy_ptr, update_ptr, step_ptr, shrink_ptr, scale, count, BLOCK: tl.constexpr, COPY: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count

    update = tl.load(update_ptr + at, mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + at, mask, other=0.0) * tl.load(shrink_ptr) - update * (tl.load(step_ptr) * scale)
    tl.store(weight_ptr + at, weight, mask)
    if COPY:
        tl.store(copy_ptr + at, weight.to(copy_ptr.dtype.element_ty), mask)


@triton.jit
def _add_kernel(sum_ptr, x_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    total = tl.load(sum_ptr + at, mask, other=0.0) + tl.load(x_ptr + at, mask, other=0.0).to(tl.float32)
    tl.store(sum_ptr + at, total, mask)


@triton.jit
def _scale_kernel(x_ptr, scale_ptr, out_ptr, count, BLOCK: tl.constexpr):
    matrix = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + matrix * count + at, at < count, other=0.0).to(tl.float32) * tl.load(scale_ptr + matrix)
    tl.store(out_ptr + matrix * count + at, x.to(out_ptr.dtype.element_ty), at < count)


def add_(total: Tensor, x: Tensor) -> None:
    """Add x, contiguous and perhaps in half precision, to `total`, which is fp32, in place."""
    count = total.numel()
    _add_kernel[(triton.cdiv(count, 2048),)](total, x, count, BLOCK=2048)


def scale_matrices(matrices: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each matrix of a batch times its scale (fp32, one per matrix), in `dtype`."""
    out = torch.empty_like(matrices, dtype=dtype)
    count = matrices[0].numel()
    _scale_kernel[(triton.cdiv(count, 2048), len(matrices))](matrices, scales, out, count, BLOCK=2048)
    return out


def nesterov(grad: Tensor, momentum: Tensor, factor: Tensor, keep: Tensor, beta: Tensor, dtype: torch.dtype) -> Tensor:
    """Average factor x grad into the momentum in place, unless keep is 0, and return Nesterov's look-ahead."""
    update = torch.empty_like(grad, dtype=dtype)
    count = grad.numel()
    _momentum_kernel[(triton.cdiv(count, 2048),)](grad, momentum, update, factor, keep, beta, count, BLOCK=2048)
    return update


def apply_update(
    weight: Tensor, copy: Tensor | None, update: Tensor, step: Tensor, shrink: Tensor, scale: float
) -> None:
    """Set weight to weight x shrink - step x scale x update in place, and its half-precision copy with it."""
    count = weight.numel()
    _apply_kernel[(triton.cdiv(count, 2048),)](
        weight, weight if copy is None else copy, update, step, shrink, scale, count, BLOCK=2048, COPY=copy is not None
    )
