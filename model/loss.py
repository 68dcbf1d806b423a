"""Output head and cross-entropy together, in chunks of rows, so that no full matrix of logits is ever held.

Shape suffixes: N tokens, R rows of a chunk, V vocabulary, D d_model.
"""

import torch
from torch import Tensor

from model.ops import fused

CHUNK_SHARE = 1 / 64
"""Of a GPU's memory for one chunk's half-precision logits: 1.2 GiB of 80, a whole micro-batch; 0.2 GiB of 15."""
CPU_CHUNK_ROWS = 512


def chunk_rows(vocab: int, device: torch.device) -> int:
    """Return the rows of logits to hold at a time; on a GPU a multiple of 512."""
    if device.type != "cuda":
        return CPU_CHUNK_ROWS
    memory_bytes = torch.cuda.get_device_properties(device).total_memory
    share = CHUNK_SHARE * torch.cuda.get_per_process_memory_fraction(device)
    return max(512, int(memory_bytes * share) // (2 * vocab) // 512 * 512)


@torch.no_grad()
def loss_and_gradients(
    x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, scale: Tensor, grad_weight_VD: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy and the gradient of scale x loss with respect to the hidden states.

    Args:
        x_ND: Final hidden states, any float dtype.
        weight_VD: Head weight of the same dtype.
        targets_N: Next tokens.
        scale: Scalar, the loss scale.
        grad_weight_VD: fp32; the gradient of the head's weight is added here.

    Returns:
        A fp32 scalar in nats per token, and [N, D] in the dtype of `x_ND`.
    """
    num_tokens = x_ND.shape[0]
    # Scaled before the cast to half: a mean over many tokens underflows fp16 otherwise.
    row_scale = scale / num_tokens
    loss = torch.zeros((), device=x_ND.device)
    grad_x_ND = torch.empty_like(x_ND)
    for start in range(0, num_tokens, rows := chunk_rows(len(weight_VD), x_ND.device)):
        x_RD, targets_R = x_ND[start : start + rows], targets_N[start : start + rows]
        logits_RV = x_RD @ weight_VD.T
        loss_R, grad_RV = _cross_entropy(logits_RV, targets_R, row_scale)
        loss += loss_R.sum()
        torch.mm(grad_RV, weight_VD, out=grad_x_ND[start : start + rows])
        if fused.available(grad_RV):
            fused.add_product_(grad_weight_VD, grad_RV.T, x_RD)
        else:
            grad_weight_VD += grad_RV.T @ x_RD
        del logits_RV, grad_RV  # before the next chunk is made
    return loss / num_tokens, grad_x_ND


def _cross_entropy(logits_RV: Tensor, targets_R: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's loss and the gradient of scale x their sum, in the place of the logits if it fits."""
    if fused.available(logits_RV):
        return fused.cross_entropy_(logits_RV, targets_R, scale), logits_RV
    target_R1 = targets_R.unsqueeze(1).long()
    exact_RV = logits_RV.float()
    target_logit_R1, top_R1 = exact_RV.gather(1, target_R1), exact_RV.amax(-1, keepdim=True)
    total_R1 = exact_RV.sub_(top_R1).exp_().sum(-1, keepdim=True)
    loss_R = (total_R1.log() + top_R1 - target_logit_R1).squeeze(1)
    grad_RV = exact_RV.mul_(scale / total_R1)
    grad_RV.scatter_add_(1, target_R1, -scale.expand_as(total_R1))
    return loss_R, grad_RV.to(logits_RV.dtype)


@torch.no_grad()
def count_losses(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy (nats) and the number of tokens whose most likely prediction is right.

    Args:
        x_ND: Final hidden states, any float dtype.
        weight_VD: Head weight of the same dtype.
        targets_N: Next tokens.

    Returns:
        Two fp64 scalars on the device: sums over a whole evaluation stay exact.
    """
    loss = torch.zeros((), device=x_ND.device, dtype=torch.float64)
    correct = torch.zeros((), device=x_ND.device, dtype=torch.float64)
    rows = chunk_rows(len(weight_VD), x_ND.device)
    for x_RD, targets_R in zip(x_ND.split(rows), targets_N.split(rows), strict=True):
        loss_R, right_R = _score(x_RD @ weight_VD.T, targets_R)
        loss += loss_R.double().sum()
        correct += right_R.sum()
    return loss, correct


def _score(logits_RV: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
    if fused.available(logits_RV):
        return fused.score(logits_RV, targets_R)
    exact_RV = logits_RV.float()
    target_logit_R = exact_RV.gather(1, targets_R.unsqueeze(1).long()).squeeze(1)
    top_R = exact_RV.amax(-1)
    right_R = target_logit_R >= top_R
    total_R = exact_RV.sub_(top_R.unsqueeze(1)).exp_().sum(-1)
    return total_R.log() + top_R - target_logit_R, right_R
