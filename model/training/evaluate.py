"""Evaluation on fixed held-out tokens: cross-entropy only, with dropout off.

Shape suffixes: B windows, T seq_len.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.data.batches import to_device


@dataclass(frozen=True)
class Evaluation:
    """The mean over all predicted tokens.

    Args:
        val_loss: Cross-entropy in nats per token.
        val_accuracy: Share of tokens whose most likely prediction was right, 0 to 1.
        num_tokens: How many tokens were predicted.
    """

    val_loss: float
    val_accuracy: float
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """Exponential of the loss; infinite where that overflows."""
        if self.val_loss >= 700:
            return math.inf
        return math.exp(self.val_loss)

    def bits_per_byte(self, bytes_per_token: float) -> float:
        """Return the loss in bits per byte of text, by which models with different tokenizers compare.

        Args:
            bytes_per_token: Mean bytes of text of the predicted tokens, above 0.
        """
        return self.val_loss / (math.log(2) * bytes_per_token)


_Score = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def evaluate(
    score: _Score,
    ids: npt.NDArray[np.unsignedinteger],
    starts: npt.NDArray[np.int64],
    seq_len: int,
    windows_per_batch: int,
    device: torch.device,
) -> Evaluation:
    """Score a model on windows of `ids`.

    Args:
        score: Takes inputs and targets, both [B, T], and returns two scalars: the summed cross-entropy (nats), without
            router losses and dropout, and the number of right predictions.
        ids: Held-out token ids.
        starts: Positions of the windows' first tokens.
        seq_len: Tokens per window.
        windows_per_batch: Windows per call of `score`.
        device: The device that `score` wants the tokens on.
    """
    sums = torch.zeros(2, device=device, dtype=torch.float64)
    tokens_BT, targets_BT = to_device(ids, starts, seq_len, device)

    for batch in zip(tokens_BT.split(windows_per_batch), targets_BT.split(windows_per_batch), strict=True):
        sums += torch.stack(score(*batch))

    num_tokens = len(starts) * seq_len
    loss, correct = (sums / num_tokens).tolist()
    return Evaluation(loss, correct, num_tokens)
