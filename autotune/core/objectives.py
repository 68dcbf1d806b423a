"""What trials are judged by: the loss at equal tokens, the loss at equal training seconds, or both loss and seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from autotune.core.metric import Metric
from autotune.core.records import TrialRecord, TrialResult

Objective = Literal["loss_at_equal_tokens", "loss_at_equal_seconds", "loss_and_seconds"]

EARLIER_NAMES = {"val_loss": "loss_at_equal_tokens"}
"""Names of objectives that stored studies may have, and the present ones."""
TERMS = {"loss_at_equal_tokens": "", "loss_at_equal_seconds": " at equal training seconds", "loss_and_seconds": ""}
"""Words that a sentence about a gain in loss adds, by objective."""


def judged_by(objective: Objective, metric: Metric) -> str:
    """Return what trials are judged by: the objective's name, or of another metric than a loss the same in its words.

    Args:
        objective: Of the study.
        metric: What its trials report.
    """
    if metric.of_text:
        return objective

    words = {
        "loss_at_equal_tokens": f"at equal {metric.budget_unit}",
        "loss_at_equal_seconds": "at equal training seconds",
        "loss_and_seconds": "and training seconds",
    }
    return f"{metric.name} ({metric.better} is better) {words[objective]}"


def num_values(objective: Objective) -> int:
    """Return how many values of a trial are minimised."""
    return 2 if objective == "loss_and_seconds" else 1


def values(result: TrialResult, number: int) -> list[float]:
    """Return what Optuna is told of a finished trial.

    Args:
        result: Has at least one evaluation.
        number: How many values of a trial are minimised, 1 or 2.

    Returns:
        The final loss in nats per token and, if there are two values, the training seconds.
    """
    return [result.points[-1].val_loss, result.training_s][:number]


def comparable_tokens(tokens_seen: int, budget_tokens: int, baseline_tokens: int) -> int:
    """Return where a trial stands, as tokens of a trial that has the baseline's budget.

    A trainer evaluates at whole tokens near the shares 1/n, 2/n, ... of its budget, and pruners compare what was
    reported at the same number. So the share is rounded to the nearest fraction of small denominator, which is the
    intended one for n up to half of the root of the budget.

    Args:
        tokens_seen: Its training tokens so far.
        budget_tokens: Its own budget.
        baseline_tokens: The baseline's budget.
    """
    max_denominator = max(1, math.isqrt(budget_tokens))
    share = Fraction(tokens_seen, budget_tokens).limit_denominator(max_denominator)

    return math.floor(baseline_tokens * share)


def pareto_front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the finished trials that no other beats in both loss and training seconds, lowest loss first."""
    finished: list[tuple[float, float, TrialRecord]] = []
    for trial in trials:
        if trial.loss is not None and trial.result is not None:
            finished.append((trial.loss, trial.result.training_s, trial))
    finished.sort(key=lambda entry: (entry[0], entry[1]))

    # From the lowest loss upwards, a trial is on the front if it is faster than all before it.
    front: list[TrialRecord] = []
    fastest_s = math.inf
    for _, training_s, trial in finished:
        if training_s < fastest_s:
            fastest_s = training_s
            front.append(trial)
    return front


def candidates(objective: Objective, trials: Sequence[TrialRecord]) -> Sequence[TrialRecord]:
    """Return the trials among which the finalists are: all of them, or those of the Pareto front."""
    if num_values(objective) > 1:
        return pareto_front(trials)
    return trials
