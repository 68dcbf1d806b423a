"""Learning curves as rows: one evaluation a row, and the band in which most of them lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from autotune.core.objectives import comparable_tokens
from autotune.core.records import EvalPoint, TrialRecord
from autotune.store.study_record import StudyRecord


def curves_table(trials: Iterable[TrialRecord]) -> pd.DataFrame:
    """Return every evaluation of the trials, a row each.

    Args:
        trials: Search trials or finals; a running one gives what it has reported so far.

    Returns:
        Columns number, seed, status, tokens_seen, val_loss (nats per token) and every metric reported.
    """
    rows: list[dict[str, Any]] = []
    for trial in trials:
        head = {"number": trial.number, "seed": trial.seed, "status": trial.status.value}
        if trial.result is None:
            points = [EvalPoint(seen, loss) for seen, loss in sorted(trial.values.items())]
        else:
            points = list(trial.result.points)

        for point in points:
            rows.append({**head, **point.metrics, "tokens_seen": point.tokens_seen, "val_loss": point.val_loss})

    first = ["number", "seed", "status", "tokens_seen", "val_loss"]
    if not rows:
        return pd.DataFrame(columns=first)

    table = pd.DataFrame(rows)
    others = [name for name in table.columns if name not in first]
    return table[first + others]


def at_equal_shares(record: StudyRecord) -> StudyRecord:
    """Return the study with the search's evaluations at the baseline's tokens at the same share of the training.

    Where trials have token budgets of their own, their curves can be laid over one another only so.
    """
    baseline_tokens = record.spec.budget.tokens
    trials = tuple(_at_equal_shares(trial, baseline_tokens) for trial in record.trials)
    return replace(record, trials=trials)


def _at_equal_shares(trial: TrialRecord, baseline_tokens: int) -> TrialRecord:
    budget_tokens = trial.budget_tokens
    result = trial.result
    if budget_tokens is None or result is None:
        return trial

    moved = []
    for point in result.points:
        tokens_seen = comparable_tokens(point.tokens_seen, budget_tokens, baseline_tokens)
        moved.append(replace(point, tokens_seen=tokens_seen))

    return replace(trial, result=replace(result, points=tuple(moved)))


def curve_band(curves: pd.DataFrame, low_frac: float = 0.1, high_frac: float = 0.9) -> pd.DataFrame:
    """Return, at each number of tokens, the band in which most trials' losses lie.

    Args:
        curves: As `curves_table` gives it.
        low_frac: Lower quantile, 0 to 1.
        high_frac: Upper quantile, 0 to 1.

    Returns:
        Columns tokens_seen, low, median, high (nats per token) and trials (how many had got there).
    """
    kept = curves[np.isfinite(curves["val_loss"].astype(float))]
    if kept.empty:
        return pd.DataFrame(columns=["tokens_seen", "low", "median", "high", "trials"])

    grouped = kept.groupby("tokens_seen")["val_loss"]
    band = {"low": grouped.quantile(low_frac), "median": grouped.median(), "high": grouped.quantile(high_frac)}
    return pd.DataFrame(band | {"trials": grouped.size()}).reset_index()
