"""The most expensive operations of training on a CPU in fp32, with backward passes by hand: few passes over memory.

The modules use them where `available` says so, and their own few lines of torch elsewhere; tests compare both.

Shape suffixes: B batch, T positions, H query heads, K key-value heads (in `experts`: chosen experts per token),
C head_dim, Z key-value heads of all sequences (B x K), R the queries of a group (group x T), N tokens, D d_model,
S slots (N x top_k), F d_ff, E experts, 1 a dimension of one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, reduce
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor

_ROW_MULTIPLE = 64
"""An expert's rows are rounded up to a multiple of this, since oneDNN takes 0.5 ms to compile a product for a shape."""
CHUNK_SCORES = 2**18
"""Attention scores at a time: 1 MiB, which stays in a core's cache from the product to the softmax and back."""


def available(x: Tensor) -> bool:
    """Tell whether these operations run where `x` is: on a CPU, in fp32."""
    return x.device.type == "cpu" and x.dtype == torch.float32


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Multiply fp32 matrices of a CPU with oneDNN instead of MKL, where that costs no digit.

    MKL uses only AVX2 on AMD's CPUs, where oneDNN uses AVX-512: 460 GFLOP/s instead of 215 on two Zen 5 cores. torch
    passes fp32 products to oneDNN only if it may round their inputs to bf16. oneDNN does so only where the CPU
    multiplies bf16 in tiles (AMX, SVE); on such a CPU this changes nothing.

    Args:
        device: Where the run computes; on a GPU this changes nothing.

    Yields:
        Nothing; the setting is restored afterwards.
    """
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    if device.type == "cpu" and _keeps_digits():
        setting.fp32_precision = "bf16"

    try:
        yield
    finally:
        setting.fp32_precision = before


@cache
def _keeps_digits() -> bool:
    """Tell whether a product keeps the digits that bf16 would lose, even where it may lose them."""
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"

    try:
        x = torch.full((128, 128), 1 + 2.0**-12)
        return torch.equal(x @ torch.eye(128), x)
    finally:
        setting.fp32_precision = before


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        rstd = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = x * rstd

        ctx.save_for_backward(normed, rstd, gain_D)
        return normed * gain_D

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, rstd, gain_D = ctx.saved_tensors
        dgain_D = (grads[0] * normed).flatten(0, -2).sum(0)

        dx = grads[0] * gain_D
        mean = (dx * normed).mean(-1, keepdim=True)
        return dx.addcmul_(normed, mean, value=-1.0).mul_(rstd), dgain_D, None


def norm(x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    """Return the RMS norm of x, [..., D], over its last dimension, times the gain; eps is added to the mean square."""
    out: Tensor = _Norm.apply(x, gain_D, eps)
    return out


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.tables = cos, sin
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.tables
        return _turn(grads[0], cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    swapped = torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1)
    signed_sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
    return swapped.mul_(signed_sin).addcmul_(x, cos)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return `x` with each pair (i, i + C/2) of its last dimension rotated by its position's angle.

    Args:
        x: [..., T, C].
        cos: Cosines, of a shape that broadcasts to that of `x`.
        sin: Sines, likewise.
    """
    out: Tensor = _Rotate.apply(x, cos, sin)
    return out


class _Attend(torch.autograd.Function):
    """Attention by whole score matrices, a few heads at a time, computed again in the backward pass.

    torch's flash kernel for CPUs multiplies tiles of 32 x 24 (at 128 positions and heads 24 wide), which is slow.
    q is [Z, R, C]; k and v are [Z, T, C].
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        for heads in _chunks(k, q.shape[1]):
            torch.bmm(_probabilities(q[heads], k[heads]), v[heads], out=out[heads])

        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out = ctx.saved_tensors
        dout = grads[0].contiguous()
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        # A row's product with its own output is the mean, under its probabilities, of their gradients.
        mean = torch.linalg.vecdot(dout, out).unsqueeze(-1)

        for heads in _chunks(k, q.shape[1]):
            probs = _probabilities(q[heads], k[heads])
            torch.bmm(probs.mT, dout[heads], out=dv[heads])

            dscores = torch.bmm(dout[heads], v[heads].mT).sub_(mean[heads]).mul_(probs)
            torch.bmm(dscores, k[heads], out=dq[heads])
            torch.bmm(dscores.mT, q[heads], out=dk[heads])

        return dq, dk, dv


def _chunks(k_ZTC: Tensor, num_rows: int) -> list[slice]:
    """Return slices of the heads, each of about `CHUNK_SCORES` scores with `num_rows` queries a head."""
    size = max(1, CHUNK_SCORES // (num_rows * k_ZTC.shape[1]))
    return [slice(start, start + size) for start in range(0, len(k_ZTC), size)]


def _probabilities(q_ZRC: Tensor, k_ZTC: Tensor) -> Tensor:
    """Return each query's probabilities over the positions up to its own, [Z, R, T]."""
    T = k_ZTC.shape[1]
    scores_ZRT = q_ZRC @ k_ZTC.mT

    later_TT = torch.full((T, T), -torch.inf).triu_(1)
    scores_ZRT.view(-1, T, T).add_(later_TT)
    return scores_ZRT.softmax(-1)


def attend(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor) -> Tensor:
    """Return causal attention, [B, H, T, C]; the queries of a group take their key-value head unrepeated."""
    C = q_BHTC.shape[-1]
    k_ZTC, v_ZTC = k_BKTC.flatten(0, 1), v_BKTC.flatten(0, 1)
    scaled_q_ZRC = (q_BHTC * C**-0.5).reshape(len(k_ZTC), -1, C)
    out: Tensor = _Attend.apply(scaled_q_ZRC, k_ZTC, v_ZTC)
    return out.view(q_BHTC.shape)


class _Experts(torch.autograd.Function):
    """Dispatch, experts and combination, one expert after the other, whose intermediate results stay in the cache.

    An expert's rows, rounded up, reach into those of the next expert, which is computed later and overwrites them.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x_ND, share_NK, gate_up, down, order_S, inverse_S, loads = inputs
        token_S = order_S // share_NK.shape[1]
        x_SD = x_ND.index_select(0, token_S)
        share_S1 = share_NK.view(-1, 1).index_select(0, order_S)
        gate_up_SF = x_SD.new_empty(len(x_SD), gate_up.shape[1])
        y_SD = torch.empty_like(x_SD)

        for expert, (rows, _) in enumerate(_groups(loads)):
            torch.mm(x_SD[rows], gate_up[expert].T, out=gate_up_SF[rows])
            gate, up = gate_up_SF[rows].chunk(2, dim=1)
            hidden = F.silu(gate).mul_(up).mul_(share_S1[rows])
            torch.mm(hidden, down[expert].T, out=y_SD[rows])

        ctx.save_for_backward(x_SD, share_S1, gate_up, down, gate_up_SF, token_S, inverse_S)
        ctx.loads = loads
        return _from_slots(y_SD, inverse_S.view_as(share_NK))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_SD, share_S1, gate_up, down, gate_up_SF, token_S, inverse_S = ctx.saved_tensors
        top_k = len(inverse_S) // len(grads[0])
        dy_SD = grads[0].index_select(0, token_S)
        dx_SD = torch.empty_like(x_SD)
        dshare_S = torch.empty_like(share_S1[:, 0])
        dgate_up = torch.empty_like(gate_up)
        ddown = torch.empty_like(down)

        for expert, (rows, load) in enumerate(_groups(ctx.loads)):
            gate, up = gate_up_SF[rows].chunk(2, dim=1)
            sigmoid = gate.sigmoid()
            silu = gate * sigmoid
            hidden = silu * up

            dhidden = dy_SD[rows] @ down[expert]
            torch.linalg.vecdot(hidden, dhidden, out=dshare_S[rows])
            for each in (hidden, dhidden):
                each.mul_(share_S1[rows])
                each[load:] = 0.0  # the next expert's rows give this one no gradient
            torch.mm(dy_SD[rows].T, hidden, out=ddown[expert])

            slope = torch.addcmul(silu, silu, sigmoid, value=-1.0).add_(sigmoid)  # of silu
            dgate_up_rows = torch.cat((slope.mul_(up).mul_(dhidden), silu.mul_(dhidden)), dim=1)
            torch.mm(dgate_up_rows.T, x_SD[rows], out=dgate_up[expert])
            torch.mm(dgate_up_rows, gate_up[expert], out=dx_SD[rows])

        dx_ND = _from_slots(dx_SD, inverse_S.view(-1, top_k))
        dshare_NK = dshare_S[inverse_S].view(-1, top_k)
        return dx_ND, dshare_NK, dgate_up, ddown, None, None, None


def _groups(loads: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Yield each expert's rows, rounded up, and how many of them are its own."""
    start = 0
    for load in loads:
        yield slice(start, start + -(-load // _ROW_MULTIPLE) * _ROW_MULTIPLE), load
        start += load


def _from_slots(y_SD: Tensor, place_NK: Tensor) -> Tensor:
    """Return the sum over each token's slots, [N, D]."""
    return reduce(Tensor.add_, (y_SD.index_select(0, place_N) for place_N in place_NK.unbind(1)))


def experts(
    x_ND: Tensor, share_NK: Tensor, gate_up: Tensor, down: Tensor, order_S: Tensor, inverse_S: Tensor, ends_E: Tensor
) -> Tensor:
    """Return the sum of each token's chosen experts, [N, D].

    Args:
        x_ND: Normed hidden states.
        share_NK: Weight of each of a token's slots.
        gate_up: [E, 2 x d_ff, D].
        down: [E, D, d_ff].
        order_S: Place, sorted by expert -> slot.
        inverse_S: Slot -> place.
        ends_E: End of each expert's places.
    """
    loads = ends_E.diff(prepend=ends_E.new_zeros(1)).tolist()
    # Rounding up must not reach beyond the last slot.
    order_S = F.pad(order_S, (0, _ROW_MULTIPLE - 1))
    out: Tensor = _Experts.apply(x_ND, share_NK, gate_up, down, order_S, inverse_S, loads)
    return out
