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
    """Returns the finished trials that no other beats in both loss and training seconds, lowest loss first.

    Args:
        record: The study.

    Returns:
        Columns number, loss (nats per token), training_s and the settings by dotted path.
    """
    trials = tables.trials_table(record).set_index("number", drop=False)
    front = trials.loc[[trial.number for trial in pareto_front(record.trials)], ["number", "loss", "training_s"]]
    return front.join(tables.settings_table(record)).reset_index(drop=True)


def front_words(record: StudyRecord) -> str:
    """Returns what the front says: which trial is the fastest of those about as good as the best.

    Args:
        record: The study.
    """
    front = front_table(record)
    if front.empty:
        return "No trial has finished."
    given, default = finite(record.verdict.min_gain) if record.verdict else None, tables.baseline_loss(record)
    best = front.iloc[0]
    least = record.spec.finals.min_gain_frac * (default or best["loss"]) if given is None else given
    fastest = front[front["loss"] <= best["loss"] + least].iloc[-1]

    def words(trial: pd.Series) -> str:
        return (
            f"trial {trial['number']}, loss {number(trial['loss'])} in {number(trial['training_s'], 1)} s of training"
        )

    if fastest["number"] == best["number"]:
        return f"The best is {words(best)}; no faster trial comes within {number(least)} of it (one seed each)."
    return (
        f"The best is {words(best)}; the fastest within {number(least)} of it, the smallest gain worth having, is "
        f"{words(fastest)} (one seed each)."
    )


def loss_against_seconds(record: StudyRecord) -> go.Figure:
    """Draws every finished trial by its training seconds and final loss, with the front."""
    return trade_off(
        tables.trials_table(record),
        record.baseline.number if record.baseline else None,
        front_table(record),
        "training_s",
        "training time (seconds)",
        "s",
    )
