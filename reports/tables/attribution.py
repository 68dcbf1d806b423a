"""What each of the winner's changes gave, a row each."""

from __future__ import annotations

import math

import pandas as pd

from autotune.core.metric import Metric
from autotune.core.study_results import AttributedChange, Attribution
from autotune.promotion.selection import left_at_default
from reports.formats import setting

COUNTS, TIE, WORSE = "counts", "tie", "worse"


def attribution_table(attribution: Attribution) -> pd.DataFrame:
    """Return the winner's changes, a row each, in the order of the path from the default.

    Args:
        attribution: As `attribution_of` gives it.

    Returns:
        Columns path, before, after, gain and harm with their ends (gain_low, ...; nats per token, NaN where a
        training failed), word ("counts", "tie" or "worse") and left (whether it is back at its default).
    """
    names = ["gain", "gain_low", "gain_high", "harm", "harm_low", "harm_high"]
    missing = (None, None, None)
    left = left_at_default(attribution)

    made = []
    for change in attribution.changes:
        gain = change.gain or missing
        harm = change.harm or missing
        # Of the only change the whole proven gain comes, whatever few seeds say.
        word = COUNTS if len(attribution.changes) == 1 else _word(change)
        values = (change.path, change.before, change.after, *gain, *harm, word, change.path in left)
        made.append(values)

    table = pd.DataFrame(made, columns=["path", "before", "after", *names, "word", "left"])
    types = dict.fromkeys(names, float) | dict.fromkeys(("before", "after"), object)
    return table.astype(types)


def _word(change: AttributedChange) -> str:
    if not change.is_tie:
        return COUNTS

    # An interval that lies below zero as a whole says that the change did harm.
    did_harm = any(part is not None and part[2] < 0 for part in (change.gain, change.harm))
    return WORSE if did_harm else TIE


def attribution_words(table: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return the rows as a person would write them.

    Args:
        table: As `attribution_table` gives it.
        metric: What trials report.

    Returns:
        Columns setting, default, winner, gained when added in this order, lost without it, and what follows.
    """
    follows = {True: "left at default", False: "kept"}
    what_follows = [f"{word}: {follows[left]}" for word, left in zip(table["word"], table["left"], strict=True)]

    content = {
        "setting": table["path"],
        "default": table["before"].map(setting),
        "winner": table["after"].map(setting),
        "gained when added in this order": interval_words(table, "gain", metric, "not measured"),
        "lost without it": interval_words(table, "harm", metric, "cannot be trained without it"),
        "what follows": what_follows,
    }
    return pd.DataFrame(content)


def interval_words(table: pd.DataFrame, name: str, metric: Metric, missing: str = "") -> list[str]:
    """Return "gain" or "harm" of each row with its interval, or what is said where it is missing."""
    columns = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)

    written = []
    for value, low, high in columns:
        if math.isnan(value):
            written.append(missing)
        else:
            written.append(f"{metric.signed(value)} ({metric.signed(low)} to {metric.signed(high)})")

    return written
