"""Matrix products of groups of rows, each group with a weight of its own, on tensor cores and without a host sync.

The sizes of the groups are read on the device: a grid has a place for every tile that there can be, and programs
without a tile return at once.

Shape suffixes: S rows in all, sorted by group, E groups, K contracted, M and N outer sizes.
"""

import triton
import triton.language as tl
from torch import Tensor

from model.ops.kernels.blocks import pow2

_BY_ROWS = [
    triton.Config({"ROWS": 128, "COLUMNS": 128, "DEPTH": 64}, num_warps=4, num_stages=3),
    triton.Config({"ROWS": 128, "COLUMNS": 128, "DEPTH": 32}, num_warps=4, num_stages=4),
    triton.Config({"ROWS": 64, "COLUMNS": 128, "DEPTH": 32}, num_warps=4, num_stages=4),
]
_BY_GROUPS = [
    triton.Config({"HEIGHT": 128, "WIDTH": 128, "DEPTH": 32}, num_warps=4, num_stages=5),
    triton.Config({"HEIGHT": 128, "WIDTH": 256, "DEPTH": 32}, num_warps=8, num_stages=4),
    triton.Config({"HEIGHT": 128, "WIDTH": 64, "DEPTH": 32}, num_warps=4, num_stages=5),
]
"""Of 18 tiles each the fastest at the shapes of the overnight study, with code for compute capabilities 9.0 and 8.6 on
an H200, and one for few rows."""
_ROWS_OF_A_SHARE, _ENTRIES_AT_ONCE = 3072, 3 * 2**22
"""Several programs share a group's rows where it has more than so many, and where all programs make fewer entries than
so many: early in a training one group of 8 has half of all rows, and the card would wait for its programs alone."""
_USUAL_GROUPS = 64
"""As many groups or fewer have one compiled kernel."""


@triton.autotune(_BY_ROWS, key=["S", "N", "K"], cache_results=True)
@triton.jit
def _by_rows_kernel(
    a_ptr, b_ptr, end_ptr, out_ptr, S, E, a_row, a_inner, b_group, b_inner, b_column,
    N: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    tiles_wide = tl.cdiv(N, COLUMNS)
    tile, tile_column = tl.program_id(0) // tiles_wide, tl.program_id(0) % tiles_wide

    # Whose tile it is: the number of groups all of whose tiles come before. Groups beyond the last have none.
    groups = tl.arange(0, GROUPS)
    is_group = groups < E
    ends = tl.load(end_ptr + groups, is_group, other=0)
    begins = tl.load(end_ptr + groups - 1, is_group & (groups > 0), other=0)
    tiles = tl.cdiv(ends - begins, ROWS)
    tiles_before = tl.cumsum(tiles, 0) - tiles
    group = tl.sum((tiles_before + tiles <= tile).to(tl.int32), 0)
    if group >= E:
        return

    is_mine = groups == group
    begin, end = tl.sum(tl.where(is_mine, begins, 0), 0), tl.sum(tl.where(is_mine, ends, 0), 0)
    rows = begin + (tile - tl.sum(tl.where(is_mine, tiles_before, 0), 0)) * ROWS + tl.arange(0, ROWS)
    columns = tile_column * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.arange(0, DEPTH)

    # Other groups' rows may be read, and are not stored.
    from_row = tl.minimum(rows, S - 1).to(tl.int64)
    a_at = a_ptr + from_row[:, None] * a_row + inner[None, :] * a_inner
    b_at = b_ptr + group.to(tl.int64) * b_group + inner[:, None] * b_inner + columns[None, :] * b_column
    has_column = (columns < N)[None, :]

    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, K, DEPTH):
        if K % DEPTH == 0:
            a = tl.load(a_at)
            b = tl.load(b_at) if N % COLUMNS == 0 else tl.load(b_at, has_column, other=0.0)
        else:
            inside = start + inner < K
            a = tl.load(a_at, inside[None, :], other=0.0)
            b = tl.load(b_at, inside[:, None] & has_column, other=0.0)
        total = tl.dot(a, b, total)
        a_at += DEPTH * a_inner
        b_at += DEPTH * b_inner

    mask = (rows < end)[:, None] & has_column
    to = rows.to(tl.int64)[:, None] * N + columns[None, :]
    tl.store(out_ptr + to, total.to(out_ptr.dtype.element_ty), mask)


@triton.autotune(_BY_GROUPS, key=["S", "M", "N"], restore_value=["sum_ptr"], cache_results=True)
@triton.jit
def _by_groups_kernel(
    a_ptr, b_ptr, end_ptr, sum_ptr, S, a_outer, a_row, b_row, b_column,
    M: tl.constexpr, N: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    group, share, shares = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    top = tl.program_id(0) // tl.cdiv(N, WIDTH) * HEIGHT
    left = tl.program_id(0) % tl.cdiv(N, WIDTH) * WIDTH
    height, width = tl.arange(0, HEIGHT).to(tl.int64)[:, None], tl.arange(0, WIDTH).to(tl.int64)[None, :]
    has_outer, has_column = top + height < M, left + width < N
    is_whole: tl.constexpr = M % HEIGHT == 0 and N % WIDTH == 0

    # Its share of the group's rows, in whole depths of a tile but for the last.
    begin = tl.load(end_ptr + group - 1, group > 0, other=0)
    end = tl.load(end_ptr + group)
    rows = tl.cdiv(end - begin, shares * DEPTH) * DEPTH
    begin += share * rows
    end = tl.minimum(begin + rows, end)
    if begin >= end:
        return

    # First the last rows, fewer than a tile is deep: the others need no mask.
    whole = begin + (end - begin) // DEPTH * DEPTH
    inner = tl.arange(0, DEPTH)
    a_outer_at = a_ptr + (top + height) * a_outer
    b_column_at = b_ptr + (left + width) * b_column
    row = (whole + inner).to(tl.int64)
    a = tl.load(a_outer_at + row[None, :] * a_row, has_outer & (row < end)[None, :], other=0.0)
    b = tl.load(b_column_at + row[:, None] * b_row, (row < end)[:, None] & has_column, other=0.0)
    total = tl.dot(a, b)

    row = (begin + inner).to(tl.int64)
    a_at, b_at = a_outer_at + row[None, :] * a_row, b_column_at + row[:, None] * b_row
    for _ in range(begin, whole, DEPTH):
        a = tl.load(a_at) if is_whole else tl.load(a_at, has_outer, other=0.0)
        b = tl.load(b_at) if is_whole else tl.load(b_at, has_column, other=0.0)
        total = tl.dot(a, b, total)
        a_at += DEPTH * a_row
        b_at += DEPTH * b_row

    # A corner and places beside it: the compiler folds these into the instructions and needs no register for each.
    to = sum_ptr + ((group.to(tl.int64) * M + top) * N + left) + (height * N + width)
    tl.atomic_add(to, total, None if is_whole else has_outer & has_column, sem="relaxed")


def by_rows(a_SK: Tensor, b_EKN: Tensor, ends_E: Tensor) -> Tensor:
    """Return each group's rows times the group's matrix, [S, N]; rows after the last group stay undefined.

    Args:
        a_SK: Rows sorted by group, bf16 or fp16, of any strides.
        b_EKN: A matrix for each group, of the same dtype and any strides.
        ends_E: End of each group's rows, int32, rising, S at most.
    """
    (S, K), (E, _, N) = a_SK.shape, b_EKN.shape
    out_SN = a_SK.new_empty(S, N)

    def grid(tiles: dict[str, int]) -> tuple[int]:
        # Each group may end within a tile.
        return ((triton.cdiv(S, tiles["ROWS"]) + E - 1) * triton.cdiv(N, tiles["COLUMNS"]),)

    _by_rows_kernel[grid](
        a_SK, b_EKN, ends_E, out_SN, S, E, *a_SK.stride(), *b_EKN.stride(), N=N, K=K, GROUPS=pow2(max(E, _USUAL_GROUPS))
    )
    return out_SN


def add_by_groups_(total_EMN: Tensor, a_MS: Tensor, b_SN: Tensor, ends_E: Tensor) -> None:
    """Add the product of each group's columns of a with its rows of b to the group's sum, in place and unrounded.

    Args:
        total_EMN: fp32, contiguous.
        a_MS: Columns sorted by group, bf16 or fp16, of any strides.
        b_SN: Rows sorted by group, of the same dtype and any strides.
        ends_E: End of each group's columns and rows, int32, rising, S at most.
    """
    E, M, N = total_EMN.shape
    shares = max(1, min(len(b_SN) // (E * _ROWS_OF_A_SHARE), _ENTRIES_AT_ONCE // (E * M * N)))

    def grid(tiles: dict[str, int]) -> tuple[int, int, int]:
        return triton.cdiv(M, tiles["HEIGHT"]) * triton.cdiv(N, tiles["WIDTH"]), E, shares

    _by_groups_kernel[grid](a_MS, b_SN, ends_E, total_EMN, len(b_SN), *a_MS.stride(), *b_SN.stride(), M=M, N=N)
