"""Slots, one for each expert that a token has chosen: sorted by expert, filled from the tokens, summed back to them.

Shape suffixes: N tokens, D width, E experts, K chosen experts, S slots (N x K), P blocks of tokens.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.kernels.blocks import TOKENS, pow2


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
        WIDTH=pow2(max(slots, 2)),
    )
    return order_S, inverse_S, end_EP[:, -1].contiguous()


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

    _scatter_kernel[(triton.cdiv(num_slots, TOKENS),)](
        x_ND, order_S, out_SD, num_slots, K=top_k, WIDTH=width, BLOCK=pow2(width), ROWS=TOKENS
    )
    return out_SD


def from_slots(y_SD: Tensor, inverse_S: Tensor, top_k: int) -> Tensor:
    """Return the sum over each token's slots, [N, D]."""
    num_tokens, width = len(inverse_S) // top_k, y_SD.shape[1]
    out_ND = y_SD.new_empty(num_tokens, width)

    _gather_sum_kernel[(triton.cdiv(num_tokens, TOKENS),)](
        y_SD, inverse_S, out_ND, num_tokens, K=top_k, WIDTH=width, BLOCK=pow2(width), ROWS=TOKENS
    )
    return out_ND
