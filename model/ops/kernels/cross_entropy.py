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
def _highest(logits_ptr, vocab, LANES: tl.constexpr):
    # Each lane keeps its own maximum: no exchange between threads until the end.
    log2e: tl.constexpr = 1.4426950408889634
    lanes = tl.arange(0, LANES)
    top = tl.full((LANES,), -float("inf"), tl.float32)

    for start in range(0, vocab, LANES):
        x = tl.load(logits_ptr + start + lanes, start + lanes < vocab, other=-float("inf")).to(tl.float32)
        top = tl.maximum(top, x)
    return tl.max(top, 0) * log2e


@triton.jit
def _sum_beside(reference, logits_ptr, vocab, LANES: tl.constexpr, DEPTH: tl.constexpr):
    # The sum of all exponentials, as multiples of that of a reference: one exponential for each logit.
    log2e: tl.constexpr = 1.4426950408889634
    lanes = tl.arange(0, LANES)
    tile = tl.arange(0, DEPTH)[:, None] * LANES + lanes[None, :]
    whole = vocab // (DEPTH * LANES) * (DEPTH * LANES)
    total = tl.zeros((LANES,), tl.float32)

    for start in range(0, whole, DEPTH * LANES):
        x = tl.load(logits_ptr + start + tile).to(tl.float32)
        total += tl.sum(tl.exp2(x * log2e - reference), 0)

    for start in range(whole, vocab, LANES):
        x = tl.load(logits_ptr + start + lanes, start + lanes < vocab, other=-float("inf")).to(tl.float32)
        total += tl.exp2(x * log2e - reference)
    return tl.sum(total, 0)


@triton.jit
def _cross_entropy_kernel(
    logits_ptr, target_ptr, loss_ptr, right_ptr, scale_ptr, vocab,
    LANES: tl.constexpr, DEPTH: tl.constexpr, GRAD: tl.constexpr,
):  # fmt: skip
    # Powers of two throughout: the logits are multiplied by log2e as they are read.
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * vocab
    log2e: tl.constexpr = 1.4426950408889634

    target = tl.load(target_ptr + row)
    logit = tl.load(logits_ptr + target).to(tl.float32) * log2e

    if GRAD:
        # Beside the target's logit the sum is 1 or more, and the maximum need not be known. It is infinite where the
        # loss is above 88 nats; then the maximum is looked for after all.
        reference = logit
        total = _sum_beside(reference, logits_ptr, vocab, LANES, DEPTH)
        if total == float("inf"):
            reference = _highest(logits_ptr, vocab, LANES)
            total = _sum_beside(reference, logits_ptr, vocab, LANES, DEPTH)
    else:
        reference = _highest(logits_ptr, vocab, LANES)
        total = _sum_beside(reference, logits_ptr, vocab, LANES, DEPTH)
        tl.store(right_ptr + row, (logit >= reference).to(tl.float32))

    lse = reference + tl.log2(total)
    tl.store(loss_ptr + row, (lse - logit) / log2e)

    if GRAD:
        lanes = tl.arange(0, LANES)
        tile = tl.arange(0, DEPTH)[:, None] * LANES + lanes[None, :]
        whole = vocab // (DEPTH * LANES) * (DEPTH * LANES)
        kind = logits_ptr.dtype.element_ty

        # The scale is a part of the exponent, and the target's own gradient is written last.
        scale = tl.load(scale_ptr)
        shift = lse - tl.log2(scale)
        for start in range(0, whole, DEPTH * LANES):
            x = tl.load(logits_ptr + start + tile).to(tl.float32)
            tl.store(logits_ptr + start + tile, tl.exp2(x * log2e - shift).to(kind))

        for start in range(whole, vocab, LANES):
            mask = start + lanes < vocab
            x = tl.load(logits_ptr + start + lanes, mask, other=0.0).to(tl.float32)
            tl.store(logits_ptr + start + lanes, tl.exp2(x * log2e - shift).to(kind), mask)

        tl.debug_barrier()
        tl.store(logits_ptr + target, ((tl.exp2(logit - lse) - 1.0) * scale).to(kind))


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
