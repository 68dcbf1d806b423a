"""A trainer whose settings have other names than the customary ones, and one that has a customary name alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

from pydantic import BaseModel, ConfigDict


class Run(BaseModel):
    """How a run goes; see `setting_roles`."""

    model_config = ConfigDict(extra="forbid")
    rng: int = 0
    backend: str = ""
    reports: int = 4
    text: int = 0
    results_in: str = ""
    card: list[str] = []


class Config(BaseModel):
    """`seed` is none of a training here, but a plant's; nobody is to fill it in."""

    model_config = ConfigDict(extra="forbid")
    rate: float = 0.05
    seed: str = "sunflower"
    run: Run = Run()


setting_roles = {
    "seed": "run.rng",
    "device": "run.backend",
    "num_evals": "run.reports",
    "train_tokens": "run.text",
    "output_dir": "run.results_in",
    "provenance": "run.card",
}
TEXT_TOKENS = 200_000


def train(config: Config, budget_tokens: int, report: Callable[[Mapping[str, float]], bool]) -> Mapping[str, object]:
    """Trains nothing; a rate of 0.01 is best."""
    noise = random.Random(config.run.rng).gauss(0, 0.001)
    for number in range(1, config.run.reports + 1):
        share = number / config.run.reports
        loss = 3.0 + math.log10(config.rate / 0.01) ** 2 + 2 * math.exp(-5 * share) + noise
        if not report({"tokens_seen": budget_tokens * share, "val_loss": loss}):
            break
    return {"train_tokens": config.run.text or TEXT_TOKENS}
