"""The Pareto front of a study by loss and seconds: as a table, in words, and drawn."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from autotune.core.objectives import pareto_front
from autotune.store.study_store import StudyRecord
from reports import tables
from reports.figures.trade_offs import trade_off
from reports.formats import finite, number


def front_table(record: StudyRecord) -> pd.DataFrame:
    """Return the finished trials that no other beats in both loss and training seconds, lowest loss first.

    Args:
        record: The study.

    Returns:
        Columns number, loss (nats per token), training_s and the settings by dotted path.
    """
    trials = tables.trials_table(record).set_index("number", drop=False)
    numbers = [trial.number for trial in pareto_front(record.trials)]
    front = trials.loc[numbers, ["number", "loss", "training_s"]]
    return front.join(tables.settings_table(record)).reset_index(drop=True)


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
    return record.spec.finals.min_gain_frac * (tables.baseline_loss(record) or best_loss)


def _trial_words(trial: pd.Series) -> str:
    return f"trial {trial['number']}, loss {number(trial['loss'])} in {number(trial['training_s'], 1)} s of training"


def loss_against_seconds(record: StudyRecord) -> go.Figure:
    """Draw every finished trial by its training seconds and final loss, with the front.

    Args:
        record: The study.
    """
    baseline_number = None
    if record.baseline is not None:
        baseline_number = record.baseline.number

    trials = tables.trials_table(record)
    return trade_off(trials, baseline_number, front_table(record), "training_s", "training time (seconds)", "s")
