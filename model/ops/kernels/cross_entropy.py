"""The cross-entropy of rows of logits, with its gradient in their place or with whether the target ranks first.

Shape suffixes: R rows, V vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LANES, LANE_DEPTH = 4096, 4
"""Logits that the cross-entropy reads at a time: LANES x LANE_DEPTH."""


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
