"""Tables in the words of a study's metric: its name, its unit of budget, and its own sign."""

from __future__ import annotations

import pandas as pd

from autotune.core.metric import Metric
from autotune.core.own_words import LOSSES, OF_TEXT, own_names

_STATISTICS = {"best": "best", "mean": "mean", "median": "median", "low": "high", "high": "low"}
"""Of losses, in tables that have them, and what they become when the sign is turned."""


def in_metric(table: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return a table with what the trainer reports, under its own name.

    Args:
        table: One of this folder's, with losses.
        metric: What the trainer reports.
    """
    names = own_names(map(str, table.columns), metric)
    told = table.copy()
    if metric.maximize:
        for name, source in _STATISTICS.items():
            if name in told.columns:
                told[name] = metric.values(table[source])
        for name in names:
            if name in LOSSES:
                told[name] = metric.values(table[name])

    if not metric.of_text:
        empty = [name for name in OF_TEXT if name in told.columns and told[name].isna().all()]
        told = told.drop(columns=empty)
    return told.rename(columns=names)
