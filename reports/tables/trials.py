"""The search trials as rows: one trial or one trial's settings a row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

from autotune.core.records import TrialRecord
from autotune.store.study_record import StudyRecord
from reports.formats import finite, or_nan

_TRIAL_COLUMNS = (
    "number", "role", "status", "cause", "loss", "last_loss", "last_tokens", "seconds", "started_at", "seed",
    "budget_tokens", "training_s", "val_accuracy", "val_bpb", "tokens_per_s", "peak_memory_bytes", "skipped_steps",
    "num_params", "num_active_params", "epochs", "host", "device", "log", "retry_of", "taken_from",
)  # fmt: skip
_METRICS = ("val_accuracy", "val_bpb", "tokens_per_s", "peak_memory_bytes", "skipped_steps")
_NUMBERS = (
    *_METRICS, "num_params", "num_active_params", "epochs", "loss", "last_loss", "last_tokens", "seconds", "training_s",
)  # fmt: skip
_FACTS = ("num_params", "num_active_params", "epochs")
_TEXTS = ("cause", "started_at", "host", "device", "log")


def trials_table(record: StudyRecord) -> pd.DataFrame:
    """Return the search trials, a row each, in the order of numbers.

    Args:
        record: The study.

    Returns:
        `_TRIAL_COLUMNS`: `loss` is the final loss of a finished trial (nats per token, NaN otherwise), `last_loss`
        and `last_tokens` the last finite evaluation of any trial, `started_at` the ISO text as stored; and what else
        the trainer wants to be shown.
    """
    also = [name for name in record.attributes.metric.also if name not in _TRIAL_COLUMNS]
    rows = [{"budget_tokens": record.spec.budget.tokens, **_trial_row(trial, also)} for trial in record.trials]
    table = pd.DataFrame(rows, columns=[*_TRIAL_COLUMNS, *also])

    # Without a row, or with None alone, pandas would guess "object", which has no smallest and no mean.
    return table.astype(dict.fromkeys((*_NUMBERS, *also), float))


def _trial_row(trial: TrialRecord, also: Sequence[str]) -> dict[str, Any]:
    result = trial.result
    row: dict[str, Any] = {
        "number": trial.number, "role": trial.role, "status": trial.status.value, "seed": trial.seed,
        "loss": or_nan(finite(trial.loss)), "retry_of": or_nan(trial.retry_of),
    }  # fmt: skip
    if trial.taken_from is not None:
        row["taken_from"] = trial.taken_from.words
    row["last_tokens"], row["last_loss"] = _last(trial)
    if trial.budget_tokens is not None:
        row["budget_tokens"] = trial.budget_tokens

    if result is None:
        return row | dict.fromkeys(_TEXTS, "")

    row["seconds"] = result.seconds
    for name in _TEXTS:
        row[name] = getattr(result, name)
    for name in _FACTS:
        row[name] = finite(result.facts.get(name))

    if result.points:
        row["training_s"] = result.training_s
        for name in (*_METRICS, *also):
            row[name] = finite(result.points[-1].metrics.get(name))
    if row.get("tokens_per_s") is None:
        row["tokens_per_s"] = _overall_speed(trial)

    return row


def _overall_speed(trial: TrialRecord) -> float:
    result = trial.result
    if result is None or not result.points or result.seconds <= 0:
        return math.nan
    return result.points[-1].tokens_seen / result.seconds


def _last(trial: TrialRecord) -> tuple[float, float]:
    """Return the tokens and the loss of the last finite evaluation; NaN where there is none."""
    if trial.result is not None:
        point = trial.result.last_finite
        if point is None:
            return math.nan, math.nan
        return point.tokens_seen, point.val_loss

    if trial.seed_losses:
        # What its seeds have trained so far is no place on a curve of tokens.
        return math.nan, statistics.fmean(trial.seed_losses)

    seen = [(tokens, loss) for tokens, loss in trial.values.items() if math.isfinite(loss)]
    return max(seen, default=(math.nan, math.nan))


def settings_table(record: StudyRecord) -> pd.DataFrame:
    """Return the settings of every search trial: rows by trial number, a column per searched setting.

    A setting that a trial did not search (its condition did not hold) is None.
    """
    paths = list(record.spec.space)
    rows = {}
    for trial in record.trials:
        rows[trial.number] = [trial.params.get(path) for path in paths]
    return pd.DataFrame.from_dict(rows, orient="index", columns=paths, dtype=object)


def best_so_far_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the lowest final loss up to each finished trial.

    Args:
        trials: As `trials_table` gives it.

    Returns:
        Columns number, loss and best (nats per token), finished trials only.
    """
    done = trials.loc[trials["loss"].notna(), ["number", "loss"]].reset_index(drop=True)
    return done.assign(best=done["loss"].cummin())
