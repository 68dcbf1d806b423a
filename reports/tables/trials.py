"""The search trials as rows: one trial or one trial's settings a row."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pandas as pd

from autotune.core.records import TrialRecord
from autotune.store.study_store import StudyRecord
from reports.formats import finite, or_nan

_TRIAL_COLUMNS = (
    "number", "role", "status", "cause", "loss", "last_loss", "last_tokens", "seconds", "started_at", "seed",
    "budget_tokens", "training_s", "val_accuracy", "val_bpb", "tokens_per_s", "peak_memory_bytes", "skipped_steps",
    "num_params", "num_active_params", "epochs", "host", "device", "log", "retry_of",
)  # fmt: skip

_METRICS = ("val_accuracy", "val_bpb", "tokens_per_s", "peak_memory_bytes", "skipped_steps")

_NUMBERS = (
    *_METRICS, "num_params", "num_active_params", "epochs", "loss", "last_loss", "last_tokens", "seconds", "training_s",
)  # fmt: skip

_FACTS = ("num_params", "num_active_params", "epochs")


def trials_table(record: StudyRecord) -> pd.DataFrame:
    """Return the search trials, a row each, in the order of numbers.

    Args:
        record: The study.

    Returns:
        `_TRIAL_COLUMNS`: `loss` is the final loss of a finished trial (nats per token, NaN otherwise), `last_loss`
        and `last_tokens` the last finite evaluation of any trial, `started_at` the ISO text as stored.
    """
    rows = [{"budget_tokens": record.spec.budget.tokens, **_trial_row(trial)} for trial in record.trials]
    table = pd.DataFrame(rows, columns=list(_TRIAL_COLUMNS))

    # Without a row, or with None alone, pandas would guess "object", which has no smallest and no mean.
    return table.astype(dict.fromkeys(_NUMBERS, float))


def _trial_row(trial: TrialRecord) -> dict[str, Any]:
    result = trial.result
    row: dict[str, Any] = {
        "number": trial.number, "role": trial.role, "status": trial.status.value, "seed": trial.seed,
        "loss": or_nan(finite(trial.loss)), "retry_of": or_nan(trial.retry_of),
    }  # fmt: skip
    row["last_tokens"], row["last_loss"] = _last(trial)

    metrics = result.points[-1].metrics if result and result.points else {}
    facts = result.facts if result else {}
    row |= {name: or_nan(finite(metrics.get(name))) for name in _METRICS}
    row |= {name: or_nan(finite(facts.get(name))) for name in _FACTS}
    if math.isnan(row["tokens_per_s"]):
        row["tokens_per_s"] = _overall_speed(trial)

    row["seconds"] = result.seconds if result else math.nan
    row["training_s"] = result.training_s if result and result.points else math.nan

    if trial.budget_tokens is not None:
        row["budget_tokens"] = trial.budget_tokens

    for name in ("cause", "started_at", "host", "device", "log"):
        row[name] = getattr(result, name) if result else ""

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
        return (point.tokens_seen, point.val_loss) if point else (math.nan, math.nan)

    if trial.seed_losses:
        # What its seeds have trained so far is no place on a curve of tokens.
        return math.nan, statistics.fmean(trial.seed_losses)

    seen = [(tokens, loss) for tokens, loss in trial.values.items() if math.isfinite(loss)]
    return max(seen) if seen else (math.nan, math.nan)


def settings_table(record: StudyRecord) -> pd.DataFrame:
    """Return the settings of every search trial: rows by trial number, a column per searched setting.

    A setting that a trial did not search (its condition did not hold) is None.
    """
    paths = list(record.spec.space)
    rows = {trial.number: [trial.params.get(path) for path in paths] for trial in record.trials}
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
