"""The router: which experts a token goes to and with what share, and the gradient of the logits.

Shape suffixes: N tokens, D width, E experts, K chosen experts, P blocks of tokens.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.kernels.blocks import pow2

_ROUTER_TOKENS = 32
"""Tokens of one program at most."""

ROUTER_PARTS = 3
"""Summands in half precision that together keep the digits of a fp32 weight."""


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
    _split_kernel[(padded,)](weight_ED, parts, E, width, padded, PARTS=ROUTER_PARTS, BLOCK=pow2(width))
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
        EXPERTS=pow2(max(E, 2)),
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
        EXPERTS=pow2(max(padded, 2)),
        K=chosen_NK.shape[1],
        NORMALISES=normalises,
        TOKENS=block,
    )
    return dlogits
