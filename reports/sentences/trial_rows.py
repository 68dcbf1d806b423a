"""Every trial of the search as a row of words, best first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from autotune.core.metric import Metric
from autotune.store.study_record import StudyRecord
from reports.formats import number, plain, setting
from reports.tables.roles import DEFAULT, PROMOTED, WINNER, named_trials, single_run
from reports.tables.trials import settings_table, trials_table

MOST_ROWS = 1_000
"""Rows of the page; trials.csv has them all."""
_NONE = "–"
_LOG = re.compile(r"trials/\d{4,9}/log\.txt")


@dataclass(frozen=True)
class TrialRow:
    """One trial.

    Args:
        number: Its number.
        cells: What the columns say of it.
        log: Address of its log, as seen from the report's folder; "" if there is none.
    """

    number: int
    cells: tuple[str, ...]
    log: str = ""


@dataclass(frozen=True)
class TrialRows:
    """The trials of a study.

    Args:
        heads: What the columns are called.
        rows: The trials, those that finished first, by their loss.
        left_out: How many have no row.
        pair: Two rows that a reader compares first: the default and the trial that matters most; () without both.
    """

    heads: tuple[str, ...]
    rows: tuple[TrialRow, ...]
    left_out: int = 0
    pair: tuple[TrialRow, ...] = ()


def trial_rows(record: StudyRecord) -> TrialRows:
    """Return every trial, best first.

    Args:
        record: The study.
    """
    table = trials_table(record).sort_values("loss", kind="stable", na_position="last")
    settings = settings_table(record)
    names = named_trials(record)

    rows = [_row(record, row, settings, names) for row in table.to_dict("records")]
    metric = record.attributes.metric
    name, unit = plain(metric.name), plain(metric.budget_unit)
    heads = ("trial", "what it is", "status", name, f"last {name}", "seconds", f"{unit}/s")
    return TrialRows(
        heads=(*heads, *(plain(path) for path in settings.columns)),
        rows=tuple(rows[:MOST_ROWS]),
        left_out=max(0, len(rows) - MOST_ROWS),
        pair=_pair(rows, names, single_run(metric)),
    )


def _row(record: StudyRecord, row: Mapping[Any, Any], settings: pd.DataFrame, names: dict[int, str]) -> TrialRow:
    trial = int(str(row["number"]))
    values = [_NONE if value is None else plain(setting(value)) for value in settings.loc[trial]]
    cells = (
        str(trial),
        _what_it_is(trial, str(row["taken_from"]), names),
        plain(row["status"]),
        _loss(row["loss"], record.attributes.metric),
        _loss(row["last_loss"], record.attributes.metric),
        _number(row["seconds"], 1),
        _number(row["tokens_per_s"], 0),
        *values,
    )
    return TrialRow(trial, cells, _log(record, str(row["log"])))


def _what_it_is(trial: int, taken_from: str, names: Mapping[int, str]) -> str:
    words = [names[trial]] if trial in names else []
    if taken_from != "nan":
        words.append(f"{plain(taken_from)}, taken along")
    return ", ".join(words) or _NONE


def _loss(value: object, metric: Metric) -> str:
    if not isinstance(value, int | float) or value != value:
        return _NONE
    return metric.number(float(value))


def _number(value: object, digits: int) -> str:
    if not isinstance(value, int | float) or value != value:
        return _NONE
    return number(float(value), digits)


def _log(record: StudyRecord, path: str) -> str:
    """Return the address of a log that is there; a folder of somebody else may name any path."""
    if not _LOG.fullmatch(path) or not (record.run.root / path).is_file():
        return ""
    return f"../{path}"


def _pair(rows: list[TrialRow], names: dict[int, str], best_run: str) -> tuple[TrialRow, ...]:
    by_number = {row.number: row for row in rows}
    default = next((number for number, name in names.items() if DEFAULT in name.split(", ")), None)
    for word in (WINNER, PROMOTED, best_run):
        other = next((number for number, name in names.items() if word in name.split(", ")), None)
        if default in by_number and other in by_number and other != default:
            return by_number[default], by_number[other]
    return ()
