"""Output head and cross-entropy together, in chunks of rows, so that no full matrix of logits is ever held.

Shape suffixes: N tokens, R rows of a chunk, V vocabulary, D d_model, 1 a dimension of one.
"""

import math

import torch
from torch import Tensor

from model.ops import fused, gradient_sums

_CHUNK_FRAC = 1 / 64
"""Share of a GPU's memory for one chunk's half-precision logits: 1.2 GiB of 80, a whole micro-batch; 0.2 GiB of 15."""
CPU_CHUNK_ROWS = 512
"""Rows of a chunk on a CPU."""


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Return the rows of logits to hold at a time; on a GPU a multiple of 512.

    Args:
        vocab_size: Logits of a row.
        device: Where they are computed.
    """
    if device.type != "cuda":
        return CPU_CHUNK_ROWS

    memory_bytes = torch.cuda.get_device_properties(device).total_memory
    return gpu_chunk_rows(vocab_size, memory_bytes * torch.cuda.get_per_process_memory_fraction(device))


def gpu_chunk_rows(vocab_size: int, memory_bytes: float) -> int:
    """Return the rows of logits to hold at a time on a GPU of so much memory, a multiple of 512."""
    row_bytes = 2 * vocab_size
    return max(512, int(memory_bytes * _CHUNK_FRAC) // row_bytes // 512 * 512)


def even_rows(num_tokens: int, most_rows: int) -> int:
    """Return the rows of each chunk where all are as long, rather than the last one short: short products are slow.

    Args:
        num_tokens: Rows in all.
        most_rows: Rows of a chunk at most.
    """
    return math.ceil(num_tokens / math.ceil(num_tokens / most_rows))


@torch.no_grad()
def loss_and_gradients(
    x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, scale: Tensor, grad_weight_VD: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy and the gradient of scale x loss with respect to the hidden states.

    Args:
        x_ND: Final hidden states, any float dtype.
        weight_VD: Head weight of the same dtype.
        targets_N: Next tokens, integers.
        scale: Scalar, the loss scale.
        grad_weight_VD: fp32; the gradient of the head's weight is added here.

    Returns:
        A fp32 scalar in nats per token, and the gradient [N, D] in the dtype of `x_ND`.
    """
    num_tokens = x_ND.shape[0]
    rows = even_rows(num_tokens, chunk_rows(len(weight_VD), x_ND.device))
    # Scaled before the cast to half: a mean over many tokens underflows fp16 otherwise.
    row_scale = scale / num_tokens
    loss = torch.zeros((), device=x_ND.device)
    grad_x_ND = torch.empty_like(x_ND)

    for start in range(0, num_tokens, rows):
        chunk = slice(start, start + rows)
        x_RD = x_ND[chunk]
        logits_RV = x_RD @ weight_VD.T
        loss_R, grad_RV = _cross_entropy(logits_RV, targets_N[chunk], row_scale)
        loss += loss_R.sum()

        torch.mm(grad_RV, weight_VD, out=grad_x_ND[chunk])
        if fused.available(grad_RV):
            gradient_sums.add_product_(grad_weight_VD, grad_RV.T, x_RD)
        else:
            grad_weight_VD += grad_RV.T @ x_RD
        del logits_RV, grad_RV  # frees their memory before the next chunk takes its own

    return loss / num_tokens, grad_x_ND


def _cross_entropy(logits_RV: Tensor, targets_R: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's loss and the gradient of scale x their sum, in the memory of the logits where possible."""
    if fused.available(logits_RV):
        return fused.cross_entropy_(logits_RV, targets_R, scale), logits_RV

    target_R1 = targets_R.unsqueeze(1).long()
    exact_RV = logits_RV.float()
    target_logit_R1 = exact_RV.gather(1, target_R1)
    top_R1 = exact_RV.amax(-1, keepdim=True)

    # In place from here on: `exact_RV` becomes the exponentials, and then the gradient.
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
        targets_N: Next tokens, integers.

    Returns:
        Two fp64 scalars on the device, so that sums over a whole evaluation stay exact.
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
    """Return each row's loss (nats, fp32) and whether its target has the highest logit."""
    if fused.available(logits_RV):
        return fused.score(logits_RV, targets_R)

    exact_RV = logits_RV.float()
    target_logit_R = exact_RV.gather(1, targets_R.unsqueeze(1).long()).squeeze(1)
    top_R = exact_RV.amax(-1)
    right_R = target_logit_R >= top_R

    total_R = exact_RV.sub_(top_R.unsqueeze(1)).exp_().sum(-1)
    return total_R.log() + top_R - target_logit_R, right_R
