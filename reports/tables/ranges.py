"""Where values lie in the ranges that were searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from autotune.promotion.selection import best_settings
from autotune.search.dimension import Dimension
from autotune.store.study_record import StudyRecord
from reports.formats import finite

EDGE_FRAC = 0.1
_ENOUGH_BEYOND = 3
"""Trials beyond a best value from which widening its range has found nothing: one or two may have been unlucky."""


def position_frac(dimension: Dimension, value: object) -> float | None:
    """Return where a value lies in its range: 0 at the low end, 1 at the high end, on the range's own scale.

    Args:
        dimension: A range or a list of choices.
        value: A value of it.

    Returns:
        0 to 1, or None for anything that lies outside or is no number.
    """
    if dimension.choices is None and finite(value) is None:
        return None

    if not dimension.contains(value):
        return None
    return dimension.position(value)


def edge(dimension: Dimension, value: object) -> str:
    """Return "low" or "high" when a value lies within 10 % of an end that could be moved, else "".

    A low end of 0, and of 1 in whole numbers, is where a setting naturally ends, and choices have no ends.

    Args:
        dimension: The range.
        value: A value of it.
    """
    at = position_frac(dimension, value)
    if at is None or dimension.choices is not None or dimension.low == dimension.high:
        return ""

    natural = dimension.low == 0 or (dimension.is_integer and dimension.low == 1)
    if at <= EDGE_FRAC and not natural:
        return "low"
    if at >= 1 - EDGE_FRAC:
        return "high"
    return ""


def settings_at_edges(record: StudyRecord, params: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that lie at an edge of their range, with the edge's name.

    Not those that are left at default, and not those whose range was widened there without finding anything.
    """
    best = best_settings(record)
    left = best.left_at_default if best else {}

    sides = {}
    for path, dimension in record.spec.space.root.items():
        side = edge(dimension, params.get(path))
        if side and path not in left and not found_nothing_beyond(record, path, side, params[path]):
            sides[path] = side

    return sides


def found_nothing_beyond(record: StudyRecord, path: str, side: str, value: Any) -> int:
    """Return how many trials went beyond a value after its range was widened there, none of which was better.

    Args:
        record: The study.
        path: A setting, whose value is the best.
        side: "low" or "high", the edge of its range at which it lies.
        value: The value.

    Returns:
        0 where the range was not widened, or where too few went beyond to tell.
    """
    begun_with = (record.attributes.spec or {}).get("space", {}).get(path, {}).get(side)
    now = getattr(record.spec.space[path], side)
    if begun_with is None or begun_with == now:
        return 0

    beyond = 0
    for trial in record.trials:
        tried = finite(trial.params.get(path))
        if tried is not None and trial.status.teaches and (tried > value if side == "high" else tried < value):
            beyond += 1

    return beyond if beyond >= _ENOUGH_BEYOND else 0


def parallel_table(record: StudyRecord, trials: pd.DataFrame, settings: pd.DataFrame, best: int = 50) -> pd.DataFrame:
    """Return where the best trials' settings lie in their ranges, best first.

    Args:
        record: The study, for its space.
        trials: As `reports.tables.trials.trials_table` gives it.
        settings: As `reports.tables.trials.settings_table` gives it.
        best: Trials kept, >= 1.

    Returns:
        Columns number, loss and a position (0 to 1; NaN where the setting was not searched) per dotted path.
    """
    done = trials.loc[trials["loss"].notna(), ["number", "loss"]]
    done = done.nsmallest(best, "loss").reset_index(drop=True)

    columns = {}
    for path, dimension in record.spec.space.root.items():
        values = [settings.at[number, path] for number in done["number"]]
        columns[path] = [_position_or_nan(dimension, value) for value in values]

    positions = pd.DataFrame(columns, index=done.index, dtype=float)
    return pd.concat([done, positions], axis=1)


def _position_or_nan(dimension: Dimension, value: object) -> float:
    at = position_frac(dimension, value)
    if at is None:
        return np.nan
    return at
