"""Evaluation on fixed held-out tokens: cross-entropy only, with dropout off.

Shape suffixes: N tokens, B windows, T seq_len.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.batches import to_device
from model.loss import count_losses
from model.transformer import Transformer


@dataclass(frozen=True)
class Evaluation:
    """Cross-entropy (nats per token), accuracy (0 to 1) and how many tokens were predicted."""

    val_loss: float
    val_accuracy: float
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """Exponential of the loss; infinite where that overflows."""
        return math.exp(self.val_loss) if self.val_loss < 700 else math.inf

    def bits_per_byte(self, bytes_per_token: float) -> float:
        """Return the loss in bits per byte of text, which compares models with different tokenizers."""
        return self.val_loss / (math.log(2) * bytes_per_token)


@torch.no_grad()
def evaluate(
    model: Transformer,
    ids: npt.NDArray[np.unsignedinteger],
    starts: npt.NDArray[np.int64],
    seq_len: int,
    windows_per_batch: int,
    device: torch.device,
) -> Evaluation:
    """Score the model on windows of `ids`.

    Router losses take no part. The model is put in evaluation mode and back in the mode it was in.

    Args:
        model: The model, on `device`.
        ids: Held-out token ids.
        starts: Positions of the windows' first tokens.
        seq_len: Tokens per window.
        windows_per_batch: Windows per forward pass.
        device: Where the model is.

    Returns:
        The mean over all predicted tokens.
    """
    loss = torch.zeros((), device=device, dtype=torch.float64)
    correct = torch.zeros((), device=device, dtype=torch.float64)
    was_training = model.training
    model.eval()
    for first in range(0, len(starts), windows_per_batch):
        tokens_BT, targets_BT = to_device(ids, starts[first : first + windows_per_batch], seq_len, device)
        x_BTD, _ = model(tokens_BT)
        batch_loss, batch_correct = count_losses(x_BTD.flatten(0, 1), model.embed_tokens.weight, targets_BT.flatten())
        loss += batch_loss
        correct += batch_correct
    model.train(was_training)
    num_tokens = len(starts) * seq_len
    return Evaluation(loss.item() / num_tokens, correct.item() / num_tokens, num_tokens)
