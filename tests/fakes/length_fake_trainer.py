"""The fake trainer with a best learning rate that falls with the root of the tokens: 0.01 at 100,000."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import fake_trainer
from fake_trainer import FakeConfig

length_rules = {"lr": "learning_rate"}


def train(
    config: FakeConfig, budget_tokens: int, report: Callable[[Mapping[str, float]], bool]
) -> Mapping[str, object]:
    """Trains as at 100,000 tokens with the learning rate that is as far from the best there."""
    scaled = config.model_copy(update={"lr": config.lr * (budget_tokens / 100_000) ** 0.5})
    return {"train_tokens": config.data.train_tokens or 300_000, **fake_trainer.train(scaled, budget_tokens, report)}
