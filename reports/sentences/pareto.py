"""What the trials that are good in both loss and training time say."""

from __future__ import annotations

import pandas as pd

from autotune.store.study_store import StudyRecord
from reports.formats import finite, number
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

    best = front.iloc[0]
    min_gain = _min_gain(record, float(best["loss"]))
    fastest = front[front["loss"] <= best["loss"] + min_gain].iloc[-1]

    if fastest["number"] == best["number"]:
        return (
            f"The best is {_trial_words(best)}; no faster trial comes within {number(min_gain)} of it (one seed each)."
        )

    return (
        f"The best is {_trial_words(best)}; the fastest within {number(min_gain)} of it, the smallest gain worth "
        f"having, is {_trial_words(fastest)} (one seed each)."
    )


def _min_gain(record: StudyRecord, best_loss: float) -> float:
    """Return the smallest gain worth having: the verdict's, or the study file's share of the default's loss."""
    if record.verdict is not None:
        min_gain = finite(record.verdict.min_gain)
        if min_gain is not None:
            return min_gain

    # Without a default that finished, the best loss stands in for its own.
    return record.spec.finals.min_gain_frac * (baseline_loss(record) or best_loss)


def _trial_words(trial: pd.Series) -> str:
    return f"trial {trial['number']}, loss {number(trial['loss'])} in {number(trial['training_s'], 1)} s of training"
