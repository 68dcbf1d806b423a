"""The operations of training on a GPU, with backward passes by hand, on the kernels of `model.ops.kernels`.

The modules use them where `available` says so, and their own few lines of torch elsewhere; tests compare both. The
kernels are imported where they are called, since they need Triton.

Shape suffixes: B batch, T positions, N tokens (B x T), H query heads, K key-value heads or chosen experts per token,
C head_dim, W (H + 2K) x C, D d_model, O outputs of a linear map, E experts, S slots (N x K), F d_ff, R rows of a chunk,
V vocabulary, P blocks of tokens.
"""

import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.ops import grouped
from model.ops.gradient_sums import added_product, for_autograd, sum_for
from model.ops.graphs import beside


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def available(x: Tensor) -> bool:
    """Tell whether these operations run where `x` is: on CUDA, with Triton, which comes with torch for Linux."""
    return x.is_cuda and _has_triton()


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, y_ND: Tensor | None, gain_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        from model.ops.kernels import norms

        total_ND, out_ND, rstd_N = norms.add_norm(x_ND, y_ND, gain_D, eps)

        ctx.save_for_backward(total_ND, rstd_N)
        ctx.gain_D = gain_D
        ctx.has_y = y_ND is not None
        ctx.set_materialize_grads(False)
        # A view: without a y the sum is x itself, and autograd wants an output of its own.
        return total_ND.view_as(total_ND), out_ND

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        from model.ops.kernels import norms

        dtotal_ND, dout_ND = grads
        if dout_ND is None:
            return dtotal_ND, dtotal_ND if ctx.has_y else None, None, None

        total_ND, rstd_N = ctx.saved_tensors
        gain_sum_D, made_here = sum_for(ctx.gain_D)
        dx_ND = norms.add_norm_backward(total_ND, ctx.gain_D, rstd_N, dout_ND.contiguous(), dtotal_ND, gain_sum_D)
        dgain_D = for_autograd(gain_sum_D, ctx.gain_D, made_here)
        return dx_ND, dx_ND if ctx.has_y else None, dgain_D, None


def add_norm(x: Tensor, y: Tensor | None, gain_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x + y (or x) and its RMS norm, both shaped like x; one pass each way."""
    flat = x.flatten(0, -2), None if y is None else y.flatten(0, -2)
    total, out = _AddNorm.apply(*flat, gain_D, eps)
    return total.view_as(x), out.view_as(x)


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        from model.ops.kernels import heads

        *tensors, ctx.H, ctx.K, ctx.eps = inputs
        qkv_BTW, *ctx.gains, ctx.cos_TC, ctx.sin_TC = tensors
        q, k, v = heads.heads(*tensors, ctx.H, ctx.K, ctx.eps)
        ctx.save_for_backward(qkv_BTW)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from model.ops.kernels import heads

        (qkv_BTW,) = ctx.saved_tensors
        q_gain_C, k_gain_C = ctx.gains
        q_sum_C, made_here = sum_for(q_gain_C)
        k_sum_C, _ = sum_for(k_gain_C)

        tables, sums_C = (ctx.cos_TC, ctx.sin_TC), (q_sum_C, k_sum_C)
        dqkv_BTW = heads.heads_backward(qkv_BTW, *ctx.gains, *tables, *grads, sums_C, ctx.H, ctx.K, ctx.eps)

        dq_gain_C = for_autograd(q_sum_C, q_gain_C, made_here)
        dk_gain_C = for_autograd(k_sum_C, k_gain_C, made_here)
        return (dqkv_BTW, dq_gain_C, dk_gain_C, None, None, None, None, None)


def heads(
    qkv_BTW: Tensor, q_gain_C: Tensor, k_gain_C: Tensor, cos_TC: Tensor, sin_TC: Tensor, H: int, K: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries and keys, normed and rotated, and values, each [B, T, H, C].

    Args:
        qkv_BTW: Queries, keys and values of all heads beside each other.
        q_gain_C: Gain of the query norm.
        k_gain_C: Gain of the key norm.
        cos_TC: Cosines of the rotary angles, fp32.
        sin_TC: Sines, fp32.
        H: Query heads.
        K: Key-value heads; each is given to its whole group of query heads.
        eps: Added to the mean squares of the norms.
    """
    q, k, v = _Heads.apply(qkv_BTW, q_gain_C, k_gain_C, cos_TC, sin_TC, H, K, eps)
    return q, k, v


class _MoE(torch.autograd.Function):
    """Router, dispatch, experts and combination of one layer."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        from model.ops.kernels import router, slots, swiglu

        x_ND, router_ED, gate_up, down, top_k, normalises, block = inputs

        # Routing needs fp32's digits: in half precision the router is split into several parts, whose products with x
        # are summed in fp32.
        if x_ND.dtype == torch.float32:
            parts, router_part = 1, router_ED
            logits = x_ND @ router_ED.T
        else:
            parts, split = router.ROUTER_PARTS, router.split_router(router_ED, x_ND.dtype)
            router_part = split[: len(split) // parts]
            logits = torch.mm(x_ND, split.T, out_dtype=torch.float32)

        share_NK, chosen_NK, probs_NE, lse_N, count_EP, prob_sum_PE = router.route(
            logits, parts, len(router_ED), top_k, normalises, block
        )
        order_S, inverse_S, ends_E = slots.sort_slots(chosen_NK, count_EP)

        x_SD = slots.to_slots(x_ND, order_S, top_k)
        gate_up_SF = grouped.product(x_SD, gate_up.mT, ends_E)
        hidden_SF = swiglu.swiglu(gate_up_SF, share_NK, order_S)
        y_SD = grouped.product(hidden_SF, down.mT, ends_E)
        del hidden_SF  # the backward pass computes it again

        ctx.save_for_backward(
            x_ND, x_SD, gate_up_SF, share_NK, chosen_NK, probs_NE, order_S, inverse_S, ends_E, router_part
        )
        ctx.parameters = router_ED, gate_up, down
        ctx.normalises, ctx.block = normalises, block
        ctx.mark_non_differentiable(count_EP)
        return slots.from_slots(y_SD, inverse_S, top_k), lse_N, prob_sum_PE, count_EP

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from model.ops.kernels import router, slots, swiglu

        beside.join()
        dy_ND, dlse_N, dprob_sum_PE, _ = (grad.contiguous() for grad in grads)
        x_ND, x_SD, gate_up_SF, share_NK, chosen_NK, probs_NE, order_S, inverse_S, ends_E, router_part = (
            ctx.saved_tensors
        )
        router_ED, gate_up, down = ctx.parameters
        top_k = share_NK.shape[1]

        dy_SD = slots.to_slots(dy_ND, order_S, top_k)
        dhidden_SF = grouped.product(dy_SD, down, ends_E)
        dgate_up_SF, hidden_SF, dshare_NK = swiglu.swiglu_backward(gate_up_SF, share_NK, order_S, dhidden_SF)
        weight_grads: dict[str, Tensor | None] = {}

        def weight_gradients() -> None:
            weight_grads["down"] = grouped.added_product(down, dy_SD.mT, hidden_SF, ends_E)
            weight_grads["gate_up"] = grouped.added_product(gate_up, dgate_up_SF.mT, x_SD, ends_E)

        beside.run(weight_gradients, dy_SD, hidden_SF, dgate_up_SF, x_SD, ends_E)

        dx_ND = slots.from_slots(grouped.product(dgate_up_SF, gate_up, ends_E), inverse_S, top_k)
        dlogits = router.route_backward(
            probs_NE,
            chosen_NK,
            share_NK,
            dshare_NK,
            dprob_sum_PE,
            dlse_N,
            ctx.normalises,
            ctx.block,
            len(router_part),
            x_ND.dtype,
        )
        dx_ND.addmm_(dlogits, router_part)

        def router_gradient() -> None:
            weight_grads["router"] = added_product(router_ED, dlogits[:, : len(router_ED)].T, x_ND)

        beside.run(router_gradient, dlogits, x_ND)
        return dx_ND, weight_grads["router"], weight_grads["gate_up"], weight_grads["down"], None, None, None


class _Linear(torch.autograd.Function):
    """One product with several weights beside each other, each of which gets its own gradient."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, *weights: Tensor) -> Tensor:
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        ctx.save_for_backward(x_ND, weight)
        ctx.weights = weights
        return x_ND @ weight.T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight = ctx.saved_tensors
        dy_NO = grads[0]
        weight_grads: list[Tensor | None] = []

        def weight_gradients() -> None:
            sizes = [len(part) for part in ctx.weights]
            for part, dy in zip(ctx.weights, dy_NO.split(sizes, dim=1), strict=True):
                weight_grads.append(added_product(part, dy.T, x_ND))

        beside.run(weight_gradients, dy_NO, x_ND)
        return dy_NO @ weight, *weight_grads


def linear(x_BTD: Tensor, *weights: Tensor) -> Tensor:
    """Return the products with several weights [out, D] beside each other, [B, T, sum of outs], as one product."""
    return _Linear.apply(x_BTD.flatten(0, 1), *weights).view(*x_BTD.shape[:2], -1)


def moe(
    x_BTD: Tensor, router_ED: Tensor, gate_up: Tensor, down: Tensor, top_k: int, normalises: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Route tokens through their experts.

    Args:
        x_BTD: Normed hidden states.
        router_ED: Router weight, fp32.
        gate_up: [E, 2 x d_ff, D].
        down: [E, D, d_ff].
        top_k: Experts per token.
        normalises: Whether a token's weights are divided by their sum.

    Returns:
        The output [B, T, D]; the log-sum-exp of each token's logits [B, T], fp32; and for each block of a sequence the
        slots per expert (int32) and the sum of probabilities per expert (fp32), both [B, blocks, E].
    """
    from model.ops.kernels import router

    B, T, D = x_BTD.shape
    E = len(router_ED)
    block = router.router_block(T)
    x_ND = x_BTD.reshape(-1, D)
    y_ND, lse_N, prob_sum_PE, count_EP = _MoE.apply(x_ND, router_ED, gate_up, down, top_k, normalises, block)

    load_BPE = count_EP.view(E, B, -1).permute(1, 2, 0)
    prob_sum_BPE = prob_sum_PE.view(B, -1, E)
    return y_ND.view(B, T, D), lse_N.view(B, T), load_BPE, prob_sum_BPE


def cross_entropy_(logits_RV: Tensor, targets_R: Tensor, scale: Tensor) -> Tensor:
    """Replace logits by the gradient of scale x the summed loss, and return each row's loss in nats, fp32 [R]."""
    from model.ops.kernels import cross_entropy

    return cross_entropy.cross_entropy_(logits_RV, targets_R, scale)


def score(logits_RV: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's loss in nats and whether its target has the highest logit (1 or 0), both fp32 [R]."""
    from model.ops.kernels import cross_entropy

    return cross_entropy.score(logits_RV, targets_R)


def nesterov(grad: Tensor, momentum: Tensor, factor: Tensor, keep: Tensor, beta: Tensor, dtype: torch.dtype) -> Tensor:
    """Average factor x grad into the momentum in place, unless keep is 0, and return Nesterov's look-ahead."""
    from model.ops.kernels import updates

    return updates.nesterov(grad, momentum, factor, keep, beta, dtype)


def apply_update(
    weight: Tensor, copy: Tensor | None, update: Tensor, step_size: Tensor, shrink: Tensor, scale: float
) -> None:
    """Set weight to weight x shrink - step_size x scale x update in place, and its half-precision copy with it."""
    from model.ops.kernels import updates

    updates.apply_update(weight, copy, update, step_size, shrink, scale)


def scale_matrices(matrices: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each matrix of a batch times its scale (fp32, one per matrix), in `dtype`."""
    from model.ops.kernels import updates

    return updates.scale_matrices(matrices, scales, dtype)
