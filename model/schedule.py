"""The learning-rate schedule: a pure function of tokens, whatever the size of batches and passes."""

import math
from dataclasses import dataclass

from model.config import OptimConfig


def lr_factor(
    tokens_seen: float,
    budget_tokens: float,
    schedule: str,
    warmup_frac: float,
    decay_frac: float,
    final_lr_frac: float,
) -> float:
    """Return the factor on the peak learning rate after `tokens_seen` of `budget_tokens`.

    Warm-up is linear from 0. Then "linear" and "cosine" fall to the floor over the rest of the budget, and
    "wsd" (warm-up, stable, decay) stays at the peak and falls linearly over its last `decay_frac`. The trainer asks
    for the factor with the tokens at the end of each optimizer step, so that the first one is above 0 and the last one
    is the floor.

    Args:
        tokens_seen: Tokens, from 0; more than the budget counts as the budget.
        budget_tokens: Tokens of the whole run, above 0.
        schedule: "wsd", "cosine" or "linear".
        warmup_frac: Share of the budget, 0 to 1.
        decay_frac: Share of the budget, 0 to 1; "wsd" only.
        final_lr_frac: The floor as a share of the peak, 0 to 1.

    Returns:
        A factor between 0 and 1.

    Raises:
        ValueError: The schedule has an unknown name.

    Source:
        WSD: Hu et al. 2024, MiniCPM, arXiv 2404.06395, section 4; linear decay to zero: Defazio et al. 2023,
        arXiv 2310.07831; cosine: Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5.
    """
    progress = min(max(tokens_seen / budget_tokens, 0.0), 1.0)
    if progress < warmup_frac:
        return progress / warmup_frac

    if schedule == "wsd":
        remaining = 1.0 if decay_frac == 0 else min(1.0, (1.0 - progress) / decay_frac)
    elif schedule in ("linear", "cosine"):
        remaining = 0.0 if warmup_frac >= 1 else (1.0 - progress) / (1.0 - warmup_frac)
        if schedule == "cosine":
            remaining = 0.5 - 0.5 * math.cos(math.pi * remaining)
    else:
        raise ValueError(f'schedule "{schedule}" is unknown; use "wsd", "cosine" or "linear"')

    return final_lr_frac + (1.0 - final_lr_frac) * remaining


@dataclass(frozen=True)
class Schedule:
    """The schedule of one run, which may be told to end sooner than its budget.

    Args:
        optim: The settings that give its shape.
        budget_tokens: Tokens of the whole run, above 0.
        end_tokens: Tokens at which it ends, at most the budget.
        down_from: Tokens from which it falls to that end in a straight line; None while it ends at its budget.
        down_factor: The factor at `down_from`.
    """

    optim: OptimConfig
    budget_tokens: int
    end_tokens: int
    down_from: int | None = None
    down_factor: float = 0.0

    def factor(self, tokens_seen: int) -> float:
        """Return the factor on the peak learning rate after `tokens_seen`: the floor, exactly, at the end."""
        optim = self.optim
        shape = optim.schedule, optim.warmup_frac, optim.decay_frac, optim.final_lr_frac
        whole = lr_factor(tokens_seen, self.budget_tokens, *shape)
        if self.down_from is None or tokens_seen < self.down_from:
            return whole

        left = max(0.0, (self.end_tokens - tokens_seen) / (self.end_tokens - self.down_from))
        floor = min(optim.final_lr_frac, self.down_factor)
        # Near its end a cosine lies below a straight line, even below one that ends a little sooner.
        return min(whole, floor + (self.down_factor - floor) * left)

    def ending_at(self, end_tokens: int, tokens_seen: int) -> "Schedule":
        """Return the same schedule up to `tokens_seen`, brought down to its floor by `end_tokens`.

        "wsd" stays at its peak until its usual share of the shortened run is left for the decay. A schedule that is
        already falling continues in a straight line to the new end. A warm-up is completed first.

        Args:
            end_tokens: Where the run shall end; nothing changes unless it lies between `tokens_seen` and the budget.
            tokens_seen: Tokens so far.
        """
        if not tokens_seen < end_tokens < self.budget_tokens or end_tokens == self.end_tokens:
            return self

        optim, budget_tokens = self.optim, self.budget_tokens
        whole = Schedule(optim, budget_tokens, budget_tokens)
        if self._is_falling(whole, tokens_seen):
            return Schedule(optim, budget_tokens, end_tokens, tokens_seen, self.factor(tokens_seen))

        start = max(tokens_seen, int(optim.warmup_frac * budget_tokens))
        if optim.schedule == "wsd" and tokens_seen <= (1 - optim.decay_frac) * budget_tokens:
            start = max(start, int((1 - optim.decay_frac) * end_tokens))
        if start >= end_tokens:  # no room after the warm-up, or a decay of no length
            start = tokens_seen
        return Schedule(optim, budget_tokens, end_tokens, start, whole.factor(start))

    def _is_falling(self, whole: "Schedule", tokens_seen: int) -> bool:
        """Tell whether the fall to an earlier end has begun, now or in an earlier answer."""
        if self.down_from is None:
            return False
        return tokens_seen > self.down_from or self.down_factor < whole.factor(self.down_from)
