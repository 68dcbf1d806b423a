"""What trials are judged by: the loss at equal tokens, the loss at equal training seconds, or both loss and seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from autotune.core.records import TrialRecord, TrialResult

Objective = Literal["loss_at_equal_tokens", "loss_at_equal_seconds", "loss_and_seconds"]

EARLIER_NAMES = {"val_loss": "loss_at_equal_tokens"}
"""Names that stored studies may have."""
TERMS = {"loss_at_equal_tokens": "", "loss_at_equal_seconds": " at equal training seconds", "loss_and_seconds": ""}
"""What a sentence on a gain in loss has to add."""


def num_values(objective: Objective) -> int:
    """Returns how many values of a trial are minimised."""
    return 2 if objective == "loss_and_seconds" else 1


def values(result: TrialResult, number: int) -> list[float]:
    """Returns what Optuna is told of a finished trial: its final loss and, of two values, its training seconds."""
    return [result.points[-1].val_loss, result.training_s][:number]


def comparable_tokens(tokens_seen: int, budget_tokens: int, baseline_tokens: int) -> int:
    """Returns where a trial stands, as tokens of a trial that has the baseline's budget.

    A trainer evaluates at whole tokens near the shares 1/n, 2/n, ... of its budget, and pruners compare what was
    reported at the same number. So the share is taken as the fraction of small denominator that it stands for
    (right for n up to half of the root of the budget).

    Args:
        tokens_seen: Its training tokens so far.
        budget_tokens: Its own budget.
        baseline_tokens: The baseline's budget.
    """
    share = Fraction(tokens_seen, budget_tokens).limit_denominator(max(1, math.isqrt(budget_tokens)))
    return math.floor(baseline_tokens * share)


def pareto_front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Returns the finished trials that no other beats in both loss and training seconds, lowest loss first."""
    finished = [
        (trial.loss, trial.result.training_s, trial) for trial in trials if trial.loss is not None and trial.result
    ]
    front: list[TrialRecord] = []
    fastest = math.inf
    for _, seconds, trial in sorted(finished, key=lambda each: (each[0], each[1])):
        if seconds < fastest:
            fastest = seconds
            front.append(trial)
    return front


def candidates(objective: Objective, trials: Sequence[TrialRecord]) -> Sequence[TrialRecord]:
    """Returns the trials among which the finalists are: all of them, or those of the Pareto front."""
    return pareto_front(trials) if num_values(objective) > 1 else trials
