"""Output head and cross-entropy together, in chunks of rows, so that no full matrix of logits is ever held.

Shape suffixes: N tokens, R rows of a chunk, V vocabulary, D d_model.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_ROWS = 2048
"""Rows per chunk: 2048 x 50k fp32 logits are 0.4 GB, and the product is large enough to be efficient."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy whose gradient is computed chunk by chunk in the forward pass, already scaled."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, grad_scale: Tensor) -> Tensor:
        num_tokens = x_ND.shape[0]
        loss = torch.zeros((), device=x_ND.device)
        grad_x_ND = torch.empty_like(x_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        for start in range(0, num_tokens, CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            target_R1 = targets_N[rows].unsqueeze(1)
            logits_RV = (x_ND[rows] @ weight_VD.T).float()
            log_total_R1 = logits_RV.logsumexp(-1, keepdim=True)
            loss += (log_total_R1 - logits_RV.gather(1, target_R1)).sum()
            grad_RV = logits_RV.sub_(log_total_R1).exp_()
            grad_RV.scatter_add_(1, target_R1, torch.full_like(log_total_R1, -1.0))
            # Scaled before the cast to half: a mean over many tokens underflows fp16 otherwise.
            grad_half_RV = grad_RV.mul_(grad_scale / num_tokens).to(x_ND.dtype)
            grad_x_ND[rows] = grad_half_RV @ weight_VD
            grad_weight_VD += grad_half_RV.T @ x_ND[rows]
        ctx.save_for_backward(grad_x_ND, grad_weight_VD.to(weight_VD.dtype), grad_scale)
        return loss / num_tokens

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_x_ND, grad_weight_VD, grad_scale = ctx.saved_tensors
        ratio = grads[0] / grad_scale  # 1 when the objective was multiplied by the scale that was announced
        return (
            (grad_x_ND * ratio).to(grad_x_ND.dtype),
            (grad_weight_VD * ratio).to(grad_weight_VD.dtype),
            None,
            None,
        )


def cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, grad_scale: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of the head's predictions.

    Args:
        x_ND: Final hidden states, any float dtype.
        weight_VD: Head weight of the same dtype.
        targets_N: Next tokens, int64.
        grad_scale: Scalar by which the caller will multiply the objective before `backward`; default 1.

    Returns:
        A fp32 scalar in nats per token.
    """
    scale = torch.ones((), device=x_ND.device) if grad_scale is None else grad_scale
    loss: Tensor = _ChunkedCrossEntropy.apply(x_ND, weight_VD, targets_N, scale)
    return loss


@torch.no_grad()
def count_losses(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy (nats) and the number of tokens whose most likely prediction is right.

    Args:
        x_ND: Final hidden states, any float dtype.
        weight_VD: Head weight of the same dtype.
        targets_N: Next tokens, int64.

    Returns:
        Two fp64 scalars on the device: sums over a whole evaluation stay exact.
    """
    loss = torch.zeros((), device=x_ND.device, dtype=torch.float64)
    correct = torch.zeros((), device=x_ND.device, dtype=torch.float64)
    for x_RD, targets_R in zip(x_ND.split(CHUNK_ROWS), targets_N.split(CHUNK_ROWS), strict=True):
        logits_RV = (x_RD @ weight_VD.T).float()
        loss += (logits_RV.logsumexp(-1) - logits_RV.gather(1, targets_R.unsqueeze(1)).squeeze(1)).double().sum()
        correct += (logits_RV.argmax(-1) == targets_R).sum()
    return loss, correct
