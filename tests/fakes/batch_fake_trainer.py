"""The fake trainer with a best batch that grows with the tokens to the power of 0.6, 4 at 100,000.

Its best learning rate follows the batch by a power of 0.7, and falls with the tokens by one of 0.25 beside a batch that
stays: 0.01 at 100,000 tokens with a batch of 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import fake_trainer
from fake_trainer import FakeConfig

length_rules = {"lr": "learning_rate", "batch": "batch"}


class BatchConfig(FakeConfig):
    """What it can be told beside.

    Args:
        batch: Sequences of an optimizer step.
        most_batch: What of them fits into memory; 0 for any.
    """

    batch: int = 4
    most_batch: int = 0


def train(
    config: BatchConfig, budget_tokens: int, report: Callable[[Mapping[str, float]], bool]
) -> Mapping[str, object]:
    """Trains as at 100,000 tokens with the settings that are as far from the best there."""
    if config.most_batch and config.batch > config.most_batch:
        raise MemoryError("tried to allocate 3.00 GiB")

    longer = budget_tokens / 100_000
    off = math.log(config.batch / (4 * longer**0.6))
    lr = config.lr / (config.batch / 4) ** 0.7 * longer**0.25
    shown = config.model_dump(exclude={"batch", "most_batch"}) | {"lr": lr, "gain": config.gain - 0.1 * off**2}
    return {
        "train_tokens": config.data.train_tokens or 300_000,
        **fake_trainer.train(FakeConfig(**shown), budget_tokens, report),
    }
