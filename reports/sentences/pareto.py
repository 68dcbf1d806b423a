"""What the trials that are good in both metric and training time say."""

from __future__ import annotations

import pandas as pd

from autotune.core.metric import Metric
from autotune.store.study_record import StudyRecord
from reports.formats import finite, number, plain
from reports.tables.finals import baseline_loss
from reports.tables.fronts import front_table


def front_words(record: StudyRecord) -> str:
    """Return what the front says: which trial is the fastest of those about as good as the best.

    Args:
        record: The study.
    """
    front = front_table(record)
    if front.empty:
        return "No trial has finished."

    metric = record.attributes.metric
    best = front.iloc[0]
    min_gain = _min_gain(record, float(best["loss"]))
    fastest = front[front["loss"] <= best["loss"] + min_gain].iloc[-1]

    within = metric.difference(min_gain)
    if fastest["number"] == best["number"]:
        return f"The best is {_trial_words(best, metric)}; no faster trial comes within {within} of it (one seed each)."

    return (
        f"The best is {_trial_words(best, metric)}; the fastest within {within} of it, the smallest gain worth having, "
        f"is {_trial_words(fastest, metric)} (one seed each)."
    )


def _min_gain(record: StudyRecord, best_loss: float) -> float:
    """Return the smallest gain worth having: the verdict's, or the study file's share of the default's loss."""
    if record.verdict is not None:
        min_gain = finite(record.verdict.min_gain)
        if min_gain is not None:
            return min_gain

    # Without a default that finished, the best loss stands in for its own.
    return record.spec.finals.min_gain_frac * abs(baseline_loss(record) or best_loss)


def _trial_words(trial: pd.Series, metric: Metric) -> str:
    reached = plain(metric.words(trial["loss"]))
    return f"trial {trial['number']}, {reached} in {number(trial['training_s'], 1)} s of training"
