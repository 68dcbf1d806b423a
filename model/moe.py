# ruff: noqa: N815 (shape suffixes in named tuples)
"""The mixture-of-experts layer: a top-k router and SwiGLU experts with stacked weights.

Shape suffixes: B batch, T positions, N tokens (B x T), K chosen experts per token (top_k), S slots (N x K; of one
sequence where B stands before it), P blocks of a sequence, E experts, L layers, D d_model, F d_ff.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from model.config import ModelConfig
from model.ops import cpu, fused


class RouterTally(NamedTuple):
    """What one layer's router leaves for its losses.

    Args:
        lse_BT: The log-sum-exp of each token's logits, fp32.
        load_BPE: Slots that each expert received in each block of a sequence, integers.
        prob_sum_BPE: Sum of each expert's probabilities over each block of a sequence, fp32.
    """

    lse_BT: Tensor
    load_BPE: Tensor
    prob_sum_BPE: Tensor


class RouterStats(NamedTuple):
    """What all layers' routers give together.

    Args:
        aux_loss: Balance loss, summed over layers, a scalar.
        z_loss: Loss of large logits, summed over layers, a scalar.
        load_LE: Slots that each expert received.
    """

    aux_loss: Tensor
    z_loss: Tensor
    load_LE: Tensor


def router_stats(tallies: Sequence[RouterTally]) -> RouterStats:
    """Return the routers' losses and loads, all layers at once.

    Source:
        The balance loss is E x sum of (share of slots) x (mean probability): Fedus et al. 2021, Switch,
        arXiv 2101.03961, equations 4 to 6. It is taken per sequence (as in DeepSeek-V2, arXiv 2405.04434,
        equations 23 to 25) and averaged: over a micro-batch it would make the micro-batch size, a matter of
        memory, change the gradient. The z-loss is Zoph et al. 2022, ST-MoE, arXiv 2202.08906, equation 5.
    """
    lse_LBT = torch.stack([tally.lse_BT for tally in tallies])
    load_LBE = torch.stack([tally.load_BPE for tally in tallies]).sum(2)
    prob_sum_LBE = torch.stack([tally.prob_sum_BPE for tally in tallies]).sum(2)
    num_sequences, num_experts = load_LBE.shape[1:]

    num_slots = load_LBE.sum(-1, keepdim=True)
    share_LBE = load_LBE / num_slots
    mean_prob_LBE = prob_sum_LBE / lse_LBT.shape[2]
    aux_loss = (share_LBE * mean_prob_LBE).sum() * (num_experts / num_sequences)

    z_loss = lse_LBT.square().mean((1, 2)).sum()
    return RouterStats(aux_loss, z_loss, load_LBE.sum(1))


class Routing(NamedTuple):
    """Where each token goes.

    Args:
        weight_NK: Weight of each of a token's slots, fp32; a token's sum to 1 where the router normalises them.
        order_S: Place, sorted by expert -> slot.
        inverse_S: Slot -> place.
        group_ends_E: End of each expert's places, int32.
        tally: What the router's losses need.
    """

    weight_NK: Tensor
    order_S: Tensor
    inverse_S: Tensor
    group_ends_E: Tensor
    tally: RouterTally


class _Dispatch(torch.autograd.Function):
    """Copy tokens into slots sorted by expert; the backward pass gathers and sums, with no atomics and no sync."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, order_S: Tensor, inverse_S: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(inverse_S)
        ctx.top_k = top_k
        return x_ND[order_S // top_k]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse_S,) = ctx.saved_tensors
        dx_SD = grads[0]
        dx_NKD = dx_SD[inverse_S].view(-1, ctx.top_k, dx_SD.shape[1])
        return dx_NKD.sum(1), None, None, None


class _Undo(torch.autograd.Function):
    """Put sorted slots back in token order; the backward of a permutation is its inverse."""

    @staticmethod
    def forward(ctx: Any, y_SD: Tensor, order_S: Tensor, inverse_S: Tensor) -> Tensor:
        ctx.save_for_backward(order_S)
        return y_SD[inverse_S]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (order_S,) = ctx.saved_tensors
        return grads[0][order_S], None, None


class Router(nn.Module):
    """Choose `top_k` experts per token by a linear map in fp32, and weigh them by a softmax over the chosen ones.

    A single expert is weighed by its probability among all: over the chosen one alone it would always be 1, and the
    language loss would never reach the router.

    Args:
        config: Shape of the model.
        normalises: Whether a token's weights are divided by their sum; None for `config.normalises_weights`.

    Source: Shazeer et al. 2017, arXiv 1701.06538, equations 3 to 5 (without noise); for a single expert Fedus et al.
    2021, Switch, arXiv 2101.03961, equations 1 and 2.
    """

    def __init__(self, config: ModelConfig, normalises: bool | None = None) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.normalises = config.normalises_weights if normalises is None else normalises
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.d_model))

    def forward(self, x_BTD: Tensor) -> Routing:
        """Route each token.

        Args:
            x_BTD: Normalised hidden states, any float dtype.

        Returns:
            The routing.
        """
        num_experts = self.weight.shape[0]
        device = x_BTD.device
        logits_BTE = F.linear(x_BTD.float(), self.weight)
        probs_BTE = logits_BTE.softmax(-1)
        top_BTK, expert_BTK = probs_BTE.topk(self.top_k, dim=-1)
        if self.normalises:
            top_BTK = top_BTK / top_BTK.sum(-1, keepdim=True)

        is_chosen_BSE = expert_BTK.flatten(1).unsqueeze(-1) == torch.arange(num_experts, device=device)
        load_BPE = is_chosen_BSE.sum(1, keepdim=True)
        tally = RouterTally(logits_BTE.logsumexp(-1), load_BPE, probs_BTE.sum(1, keepdim=True))

        # Stable, so that an expert's slots keep the order of their tokens.
        order_S = expert_BTK.flatten().argsort(stable=True)
        place_S = torch.arange(len(order_S), device=device)
        inverse_S = torch.empty_like(order_S).scatter_(0, order_S, place_S)
        group_ends_E = load_BPE.sum((0, 1)).cumsum(0).to(torch.int32)
        return Routing(top_BTK.flatten(0, 1), order_S, inverse_S, group_ends_E, tally)


class Experts(nn.Module):
    """SwiGLU experts as two stacked weights, stored [E, out, in] like every weight of this model.

    `gate_up_proj` holds each expert's gate (first d_ff rows) and up projection.

    Source: Shazeer 2020, arXiv 2002.05202, equation 6.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        E, D, d_ff = config.num_experts, config.d_model, config.d_ff
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * d_ff, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, d_ff))

    def forward(self, x_SD: Tensor, group_ends_E: Tensor) -> Tensor:
        """Run slots sorted by expert through their experts.

        Args:
            x_SD: The slots' tokens.
            group_ends_E: End of each expert's slots, int32.

        Returns:
            [S, D] in the dtype of `x_SD`.
        """
        gate_SF, up_SF = F.grouped_mm(x_SD, self.gate_up_proj.mT, offs=group_ends_E).chunk(2, dim=-1)
        return F.grouped_mm(F.silu(gate_SF) * up_SF, self.down_proj.mT, offs=group_ends_E)


class MoE(nn.Module):
    """Router and experts; no token is dropped, however many choose the same expert."""

    def __init__(self, config: ModelConfig, normalises: bool | None = None) -> None:
        super().__init__()
        self.gate = Router(config, normalises)
        self.experts = Experts(config)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, RouterTally]:
        """Return the weighted sum of each token's chosen experts, [B, T, D], and the router's tally."""
        top_k = self.gate.top_k
        if fused.available(x_BTD):
            weights = self.gate.weight, self.experts.gate_up_proj, self.experts.down_proj
            y_BTD, *tally = fused.moe(x_BTD, *weights, top_k, self.gate.normalises)
            return y_BTD, RouterTally(*tally)

        routing = self.gate(x_BTD)
        x_ND = x_BTD.flatten(0, 1)
        if cpu.available(x_BTD):
            experts = self.experts.gate_up_proj, self.experts.down_proj
            places = routing.order_S, routing.inverse_S, routing.group_ends_E
            y_ND = cpu.experts(x_ND, routing.weight_NK, *experts, *places)
            return y_ND.view_as(x_BTD), routing.tally

        x_SD = _Dispatch.apply(x_ND, routing.order_S, routing.inverse_S, top_k)
        y_SD = _Undo.apply(self.experts(x_SD, routing.group_ends_E), routing.order_S, routing.inverse_S)
        weight_NK = routing.weight_NK.to(y_SD.dtype)
        y_ND = torch.einsum("nk,nkd->nd", weight_NK, y_SD.view(-1, top_k, y_SD.shape[1]))
        return y_ND.view_as(x_BTD), routing.tally
