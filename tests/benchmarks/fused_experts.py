"""Candidates for an expert's products: SwiGLU and its gradients inside them, and slots gathered as they are read.

`bench_fused.py` measures them beside what trainings use (`model/ops/fused.py`); nothing else uses them.

Shape suffixes: N tokens, S slots sorted by expert, E experts, D d_model, F d_ff.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.kernels import grouped
from model.ops.kernels.blocks import pow2

FORWARD = [
    triton.Config({"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}, num_warps=warps, num_stages=stages)
    for rows, columns, depth, warps, stages in (
        (128, 64, 64, 4, 3), (128, 64, 64, 4, 4), (128, 64, 32, 4, 4), (128, 128, 64, 8, 3), (128, 128, 64, 8, 4),
        (64, 128, 64, 4, 3), (256, 64, 64, 8, 3),
    )
]  # fmt: skip
BACKWARD = [
    triton.Config(
        {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth, "PARTS": parts}, num_warps=warps, num_stages=stages
    )
    for rows, columns, depth, warps, stages in (
        (128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 32, 8, 4), (64, 128, 64, 4, 3), (128, 64, 64, 4, 3),
        (64, 256, 64, 8, 3),
    )
    for parts in (2, 4)
]  # fmt: skip
GROUPS = [
    triton.Config({"HEIGHT": height, "WIDTH": width, "DEPTH": depth}, num_warps=warps, num_stages=stages)
    for height, width, depth, warps, stages in (
        (128, 128, 32, 4, 5), (128, 256, 32, 8, 4), (128, 64, 32, 4, 5), (128, 128, 64, 4, 3), (128, 256, 64, 8, 3),
        (256, 128, 32, 8, 4), (256, 128, 64, 8, 3),
    )
]  # fmt: skip


@triton.jit
def _place(tile, end_ptr, E, GROUPS: tl.constexpr, ROWS: tl.constexpr):
    """Return a tile's expert, or E where there is none, its first row and the end of the expert's rows."""
    groups = tl.arange(0, GROUPS)
    is_group = groups < E
    ends = tl.load(end_ptr + groups, is_group, other=0)
    begins = tl.load(end_ptr + groups - 1, is_group & (groups > 0), other=0)
    tiles = tl.cdiv(ends - begins, ROWS)
    before = tl.cumsum(tiles, 0) - tiles
    group = tl.sum((before + tiles <= tile).to(tl.int32), 0)

    is_mine = groups == group
    begin, end = tl.sum(tl.where(is_mine, begins, 0), 0), tl.sum(tl.where(is_mine, ends, 0), 0)
    return group, begin + (tile - tl.sum(tl.where(is_mine, before, 0), 0)) * ROWS, end


@triton.autotune(FORWARD, key=["S", "D", "F"])
@triton.jit
def _forward_kernel(
    x_ptr, weight_ptr, share_ptr, order_ptr, end_ptr, gate_up_ptr, hidden_ptr, S, E,
    D: tl.constexpr, F: tl.constexpr, TOP_K: tl.constexpr, GROUPS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    tl.static_assert(D % DEPTH == 0 and F % COLUMNS == 0)
    wide: tl.constexpr = F // COLUMNS
    group, top, end = _place(tl.program_id(0) // wide, end_ptr, E, GROUPS, ROWS)
    if group >= E:
        return

    rows = top + tl.arange(0, ROWS)
    columns = tl.program_id(0) % wide * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.arange(0, DEPTH)
    slot = tl.load(order_ptr + tl.minimum(rows, S - 1))
    # TOP_K of 0: the rows are gathered already.
    source = (slot // TOP_K if TOP_K else tl.minimum(rows, S - 1)).to(tl.int64)

    x_at = x_ptr + source[:, None] * D + inner[None, :]
    gate_at = weight_ptr + group.to(tl.int64) * (2 * F * D) + columns[None, :] * D + inner[:, None]
    gate, up = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
    for _ in range(0, D, DEPTH):
        x = tl.load(x_at)
        gate = tl.dot(x, tl.load(gate_at), gate)
        up = tl.dot(x, tl.load(gate_at + F * D), up)
        x_at += DEPTH
        gate_at += DEPTH

    kind = hidden_ptr.dtype.element_ty
    mask = (rows < end)[:, None]
    at = rows.to(tl.int64)[:, None] * (2 * F) + columns[None, :]
    tl.store(gate_up_ptr + at, gate.to(kind), mask)
    tl.store(gate_up_ptr + at + F, up.to(kind), mask)

    gate, up = gate.to(kind).to(tl.float32), up.to(kind).to(tl.float32)
    hidden = gate * tl.sigmoid(gate) * up * tl.load(share_ptr + slot)[:, None]
    tl.store(hidden_ptr + rows.to(tl.int64)[:, None] * F + columns[None, :], hidden.to(kind), mask)


@triton.jit
def _halves(x):
    """Return the left and the right columns."""
    return tl.split(x.reshape(x.shape[0], 2, x.shape[1] // 2).permute(0, 2, 1))


@triton.jit
def _swiglu_backward(dhidden, share, live, gate_up_ptr, dgate_up_ptr, hidden_ptr, left, F: tl.constexpr):
    """Store gradients and SwiGLU's result for some columns of a tile, and return the rows' part of the shares'."""
    height, width = tl.arange(0, dhidden.shape[0])[:, None], left + tl.arange(0, dhidden.shape[1])[None, :]
    at = height * (2 * F) + width
    mask = live[:, None]
    gate = tl.load(gate_up_ptr + at, mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + at + F, mask, other=0.0).to(tl.float32)

    kind = hidden_ptr.dtype.element_ty
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    product = silu * up
    dproduct = dhidden * share[:, None]
    tl.store(dgate_up_ptr + at, (dproduct * up * (sigmoid + silu * (1.0 - sigmoid))).to(kind), mask)
    tl.store(dgate_up_ptr + at + F, (dproduct * silu).to(kind), mask)
    tl.store(hidden_ptr + height * F + width, (product * share[:, None]).to(kind), mask)
    return tl.sum(dhidden * product, 1)


@triton.autotune(BACKWARD, key=["S", "D", "F"], reset_to_zero=["dshare_ptr"])
@triton.jit
def _backward_kernel(
    dy_ptr, weight_ptr, share_ptr, order_ptr, end_ptr, gate_up_ptr, dgate_up_ptr, hidden_ptr, dshare_ptr, S, E,
    D: tl.constexpr, F: tl.constexpr, TOP_K: tl.constexpr, GROUPS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    tl.static_assert(D % DEPTH == 0 and F % COLUMNS == 0)
    wide: tl.constexpr = F // COLUMNS
    group, top, end = _place(tl.program_id(0) // wide, end_ptr, E, GROUPS, ROWS)
    if group >= E:
        return

    rows = top + tl.arange(0, ROWS)
    columns = tl.program_id(0) % wide * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.arange(0, DEPTH)
    slot = tl.load(order_ptr + tl.minimum(rows, S - 1))
    source = (slot // TOP_K if TOP_K else tl.minimum(rows, S - 1)).to(tl.int64)

    dy_at = dy_ptr + source[:, None] * D + inner[None, :]
    down_at = weight_ptr + group.to(tl.int64) * (D * F) + inner[:, None] * F + columns[None, :]
    dhidden = tl.zeros((ROWS, COLUMNS), tl.float32)
    for _ in range(0, D, DEPTH):
        dhidden = tl.dot(tl.load(dy_at), tl.load(down_at), dhidden)
        dy_at += DEPTH
        down_at += DEPTH * F

    share = tl.load(share_ptr + slot)
    corner = top.to(tl.int64) * (2 * F) + tl.program_id(0) % wide * COLUMNS
    to = top.to(tl.int64) * F + tl.program_id(0) % wide * COLUMNS
    dshare = tl.zeros((ROWS,), tl.float32)
    if PARTS == 1:
        dshare = _swiglu_backward(
            dhidden, share, rows < end, gate_up_ptr + corner, dgate_up_ptr + corner, hidden_ptr + to, 0, F
        )
    elif PARTS == 2:
        left, right = _halves(dhidden)
        for part in tl.static_range(2):
            dshare += _swiglu_backward(
                left if part == 0 else right,
                share,
                rows < end,
                gate_up_ptr + corner,
                dgate_up_ptr + corner,
                hidden_ptr + to,
                part * (COLUMNS // 2),
                F,
            )
    else:
        left, right = _halves(dhidden)
        for half in tl.static_range(2):
            first, second = _halves(left if half == 0 else right)
            for part in tl.static_range(2):
                dshare += _swiglu_backward(
                    first if part == 0 else second,
                    share,
                    rows < end,
                    gate_up_ptr + corner,
                    dgate_up_ptr + corner,
                    hidden_ptr + to,
                    half * (COLUMNS // 2) + part * (COLUMNS // 4),
                    F,
                )
    tl.atomic_add(dshare_ptr + slot, dshare, rows < end, sem="relaxed")


@triton.autotune(GROUPS, key=["S", "M", "N", "GATHERS_A", "TOP_K"], restore_value=["sum_ptr"])
@triton.jit
def _by_groups_kernel(
    a_ptr, b_ptr, order_ptr, end_ptr, sum_ptr, S,
    M: tl.constexpr, N: tl.constexpr, GATHERS_A: tl.constexpr, TOP_K: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    tl.static_assert(M % HEIGHT == 0 and N % WIDTH == 0)
    group, share, shares = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    top = tl.program_id(0) // (N // WIDTH) * HEIGHT
    left = tl.program_id(0) % (N // WIDTH) * WIDTH
    height, width, inner = tl.arange(0, HEIGHT), tl.arange(0, WIDTH), tl.arange(0, DEPTH)

    begin = tl.load(end_ptr + group - 1, group > 0, other=0)
    end = tl.load(end_ptr + group)
    rows = tl.cdiv(end - begin, shares * DEPTH) * DEPTH
    begin += share * rows
    end = tl.minimum(begin + rows, end)
    if begin >= end:
        return

    # First the last rows, fewer than a tile is deep: the others need no mask.
    whole = begin + (end - begin) // DEPTH * DEPTH
    place = whole + inner
    live = place < end
    token = tl.load(order_ptr + place, live, other=0) // TOP_K
    a_row, b_row = (token if GATHERS_A else place).to(tl.int64), (place if GATHERS_A else token).to(tl.int64)
    a = tl.load(a_ptr + top + a_row[None, :] * M + height[:, None], live[None, :], other=0.0)
    b = tl.load(b_ptr + left + b_row[:, None] * N + width[None, :], live[:, None], other=0.0)
    total = tl.dot(a, b)

    for start in range(begin, whole, DEPTH):
        place = start + inner
        token = tl.load(order_ptr + place) // TOP_K
        a_row, b_row = (token if GATHERS_A else place).to(tl.int64), (place if GATHERS_A else token).to(tl.int64)
        a = tl.load(a_ptr + top + a_row[None, :] * M + height[:, None])
        b = tl.load(b_ptr + left + b_row[:, None] * N + width[None, :])
        total = tl.dot(a, b, total)

    to = sum_ptr + ((group.to(tl.int64) * M + top) * N + left) + (height[:, None] * N + width[None, :])
    tl.atomic_add(to, total, sem="relaxed")


def add_by_groups_(
    total_EMN: Tensor, a: Tensor, b: Tensor, order_S: Tensor, ends_E: Tensor, gathers_a: bool, top_k: int
) -> None:
    """Add the product of each group's rows of a, transposed, with its rows of b to the group's sum.

    Args:
        total_EMN: fp32.
        a: Rows of slots [S, M], or of tokens [N, M] if `gathers_a`.
        b: Rows of slots [S, N], or of tokens unless `gathers_a`.
        order_S: The slots in the order of their experts.
        ends_E: End of each expert's rows, int32.
        gathers_a: Whether a has the tokens' rows.
        top_k: Slots of a token.
    """
    E, M, N = total_EMN.shape
    S = len(order_S)
    shares = max(1, min(S // (E * grouped._ROWS_OF_A_SHARE), grouped._ENTRIES_AT_ONCE // (E * M * N)))
    _by_groups_kernel[lambda tiles: ((M // tiles["HEIGHT"]) * (N // tiles["WIDTH"]), E, shares)](
        a, b, order_S, ends_E, total_EMN, S, M=M, N=N, GATHERS_A=gathers_a, TOP_K=top_k
    )


def forward(x: Tensor, gate_up: Tensor, share_NK: Tensor, order_S: Tensor, ends_E: Tensor) -> tuple[Tensor, Tensor]:
    """Return gate and up beside each other [S, 2 x F], and SwiGLU of them times the share [S, F].

    Args:
        x: Rows of tokens [N, D], gathered as they are read, or of slots [S, D].
        gate_up: [E, 2 x F, D].
        share_NK: Each slot's share in token order, fp32.
        order_S: The slots in the order of their experts.
        ends_E: End of each expert's rows, int32.
    """
    S, (E, FF, D) = len(order_S), gate_up.shape
    gate_up_SF, hidden_SF = x.new_empty(S, FF), x.new_empty(S, FF // 2)
    top_k = 0 if len(x) == S else share_NK.shape[1]
    _forward_kernel[lambda tiles: _grid(S, E, FF // 2, tiles)](
        x, gate_up, share_NK, order_S, ends_E, gate_up_SF, hidden_SF, S, E,
        D=D, F=FF // 2, TOP_K=top_k, GROUPS=pow2(max(E, 64)),
    )  # fmt: skip
    return gate_up_SF, hidden_SF


def backward(
    dy: Tensor, down: Tensor, gate_up_SF: Tensor, share_NK: Tensor, order_S: Tensor, ends_E: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of gate and up [S, 2 x F], `forward`'s second result again, and the gradient of the shares.

    Args:
        dy: Gradients of tokens [N, D], gathered as they are read, or of slots [S, D].
        down: [E, D, F].
        gate_up_SF: What `forward` returned first.
        share_NK: Each slot's share in token order, fp32.
        order_S: The slots in the order of their experts.
        ends_E: End of each expert's rows, int32.
    """
    S, (E, D, F) = len(order_S), down.shape
    dgate_up_SF, hidden_SF, dshare_NK = torch.empty_like(gate_up_SF), dy.new_empty(S, F), torch.zeros_like(share_NK)
    top_k = 0 if len(dy) == S else share_NK.shape[1]
    _backward_kernel[lambda tiles: _grid(S, E, F, tiles)](
        dy, down, share_NK, order_S, ends_E, gate_up_SF, dgate_up_SF, hidden_SF, dshare_NK, S, E,
        D=D, F=F, TOP_K=top_k, GROUPS=pow2(max(E, 64)),
    )  # fmt: skip
    return dgate_up_SF, hidden_SF, dshare_NK


def _grid(S: int, E: int, F: int, tiles: dict[str, int]) -> tuple[int]:
    return ((triton.cdiv(S, tiles["ROWS"]) + E - 1) * (F // tiles["COLUMNS"]),)
