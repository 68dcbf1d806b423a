"""SwiGLU, times each slot's share, and its gradients.

Shape suffixes: N tokens, K chosen experts, S slots (N x K), F d_ff.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.kernels.blocks import pow2


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
    block = min(1024, pow2(F))

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
        F=F, BLOCK=min(1024, pow2(F)),
    )  # fmt: skip
    return dgate_up_SF, hidden_SF, dshare_NK
