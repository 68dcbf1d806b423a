"""Stored records as rows: one trial, one evaluation, one setting or one final a row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from autotune.core.objectives import comparable_tokens
from autotune.core.records import EvalPoint, TrialRecord
from autotune.core.statistics import CONFIDENCE, student_quantile
from autotune.finals.verdict import ATTRIBUTE
from autotune.machine.gpu_monitor import HARMFUL_REASONS
from autotune.store.study_store import StudyRecord
from reports.formats import finite, local_time

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
# Samples further apart belong to different sessions: nothing is known about the time between.
MAX_SAMPLE_GAP_S = 600.0


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
        "loss": _nan(finite(trial.loss)), "retry_of": _nan(trial.retry_of),
    }  # fmt: skip
    row["last_tokens"], row["last_loss"] = _last(trial)

    metrics = result.points[-1].metrics if result and result.points else {}
    facts = result.facts if result else {}
    row |= {name: _nan(finite(metrics.get(name))) for name in _METRICS}
    row |= {name: _nan(finite(facts.get(name))) for name in _FACTS}
    if math.isnan(row["tokens_per_s"]):
        row["tokens_per_s"] = _overall_speed(trial)

    row["seconds"] = result.seconds if result else math.nan
    row["training_s"] = result.training_s if result and result.points else math.nan

    if trial.budget_tokens is not None:
        row["budget_tokens"] = trial.budget_tokens

    for name in ("cause", "started_at", "host", "device", "log"):
        row[name] = getattr(result, name) if result else ""

    return row


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


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


def curves_table(trials: Iterable[TrialRecord]) -> pd.DataFrame:
    """Return every evaluation of the trials, a row each.

    Args:
        trials: Search trials or finals; a running one gives what it has reported so far.

    Returns:
        Columns number, seed, status, tokens_seen, val_loss (nats per token) and every metric reported.
    """
    rows: list[dict[str, Any]] = []
    for trial in trials:
        head = {"number": trial.number, "seed": trial.seed, "status": trial.status.value}
        if trial.result is not None:
            rows += [head | _flat(point) for point in trial.result.points]
        else:
            rows += [head | {"tokens_seen": seen, "val_loss": loss} for seen, loss in sorted(trial.values.items())]

    first = ["number", "seed", "status", "tokens_seen", "val_loss"]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=first)
    others = [name for name in table.columns if name not in first]
    return table[first + others]


def _flat(point: EvalPoint) -> dict[str, float]:
    return {**point.metrics, "tokens_seen": point.tokens_seen, "val_loss": point.val_loss}


def at_equal_shares(record: StudyRecord) -> StudyRecord:
    """Return the study with the search's evaluations at the baseline's tokens at the same share of the training.

    Where trials have token budgets of their own, their curves can be laid over one another only so.
    """
    baseline_tokens = record.spec.budget.tokens
    trials = tuple(_at_equal_shares(trial, baseline_tokens) for trial in record.trials)
    return replace(record, trials=trials)


def _at_equal_shares(trial: TrialRecord, baseline_tokens: int) -> TrialRecord:
    budget_tokens = trial.budget_tokens
    result = trial.result
    if budget_tokens is None or result is None:
        return trial

    moved = []
    for point in result.points:
        tokens_seen = comparable_tokens(point.tokens_seen, budget_tokens, baseline_tokens)
        moved.append(replace(point, tokens_seen=tokens_seen))

    return replace(trial, result=replace(result, points=tuple(moved)))


def best_so_far(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the lowest final loss up to each finished trial.

    Args:
        trials: As `trials_table` gives it.

    Returns:
        Columns number, loss and best (nats per token), finished trials only.
    """
    done = trials.loc[trials["loss"].notna(), ["number", "loss"]].reset_index(drop=True)
    return done.assign(best=done["loss"].cummin())


def curve_band(curves: pd.DataFrame, low_frac: float = 0.1, high_frac: float = 0.9) -> pd.DataFrame:
    """Returns, at each number of tokens, the band in which most trials' losses lie.

    Args:
        curves: As `curves_table` gives it.
        low_frac: Lower quantile, 0 to 1.
        high_frac: Upper quantile, 0 to 1.

    Returns:
        Columns tokens_seen, low, median, high (nats per token) and trials (how many had got there).
    """
    kept = curves[np.isfinite(curves["val_loss"].astype(float))]
    if kept.empty:
        return pd.DataFrame(columns=["tokens_seen", "low", "median", "high", "trials"])

    grouped = kept.groupby("tokens_seen")["val_loss"]
    band = {"low": grouped.quantile(low_frac), "median": grouped.median(), "high": grouped.quantile(high_frac)}
    return pd.DataFrame(band | {"trials": grouped.size()}).reset_index()


def finals_runs(record: StudyRecord) -> pd.DataFrame:
    """Return the finals' runs that finished, a row each; those without some of the winner's changes are not its own.

    Returns:
        Columns arm (search trial number), arm_name, stage, seed and loss (nats per token).
    """
    baseline = record.baseline.number if record.baseline else None

    rows = []
    for trial in record.finals:
        loss = finite(trial.loss)
        if trial.arm is None or trial.stage == ATTRIBUTE or loss is None:
            continue
        rows.append((trial.arm, arm_name(trial.arm, baseline), trial.stage, trial.seed, loss))

    return pd.DataFrame(rows, columns=["arm", "arm_name", "stage", "seed", "loss"])


def arm_name(arm: int, baseline: int | None) -> str:
    """Return what an arm of the finals is called: "default" or "trial 7"."""
    return "default" if arm == baseline else f"trial {arm}"


def finals_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return each arm of the finals with its mean and 95 % interval, the default first.

    Only runs of the proving stage count: seeds of the selection favour whom they selected. An arm that was
    not proved, since selection dropped it, shows its selection runs and says so.

    Args:
        runs: As `finals_runs` gives it.

    Returns:
        Columns arm, arm_name, stage, seeds (how many), mean, low and high (nats per token; NaN with one seed).
        Source: Student's t interval, mean +- t(0.975, n - 1) s / sqrt(n).
    """
    rows = []
    for arm, group in runs.groupby("arm", sort=True):
        proved = group[group["stage"] != "select"]
        if len(proved):
            used, stage = proved, "prove"
        else:
            used, stage = group, "select"

        mean, low, high = t_interval(used["loss"].to_numpy(dtype=float))
        name = group["arm_name"].iloc[0]
        rows.append((arm, name, stage, len(used), mean, low, high))

    table = pd.DataFrame(rows, columns=["arm", "arm_name", "stage", "seeds", "mean", "low", "high"])
    return table.sort_values("arm_name", key=lambda names: names != "default", kind="stable").reset_index(drop=True)


def t_interval(losses: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float, float]:
    """Return mean and both ends of the 95 % Student interval; the ends are NaN for a single value."""
    mean = float(losses.mean())
    if len(losses) < 2:
        return mean, math.nan, math.nan

    error = float(losses.std(ddof=1)) / len(losses) ** 0.5
    half = student_quantile((1 + CONFIDENCE) / 2, len(losses) - 1) * error
    return mean, mean - half, mean + half


def baseline_loss(record: StudyRecord) -> float | None:
    """Return the default's loss in nats per token: over the finals' seeds, else of its search trial."""
    if record.verdict is not None:
        proved = finite(record.verdict.baseline_loss)
        if proved is not None:
            return proved

    return finite(record.baseline.loss) if record.baseline else None


def gpu_table(record: StudyRecord) -> pd.DataFrame:
    """Return the GPU's samples in the order of time.

    Returns:
        Columns time (Unix seconds), temperature_c, power_w, sm_clock_hz, energy_j, throttled (bool) and reasons.
    """
    names = ("time", "temperature_c", "power_w", "sm_clock_hz", "energy_j")
    rows = []
    for sample in record.gpu:
        row: dict[str, Any] = {name: _nan(finite(sample.get(name))) for name in names}

        reasons = sample.get("throttle_reasons")
        row["reasons"] = ()
        if isinstance(reasons, list | tuple):
            row["reasons"] = tuple(str(reason) for reason in reasons)

        row["throttled"] = bool(HARMFUL_REASONS.intersection(row["reasons"]))
        rows.append(row)

    table = pd.DataFrame(rows, columns=[*names, "reasons", "throttled"])
    return table[table["time"].notna()].sort_values("time", kind="stable").reset_index(drop=True)


def energy_j(gpu: pd.DataFrame) -> float | None:
    """Return the energy that the GPU used, in joules, or None without at least two usable samples.

    Between neighbouring samples the GPU's own counter is used, or else the mean power times the seconds.

    Args:
        gpu: As `gpu_table` gives it.
    """
    gap_s = gpu["time"].diff()
    counted = gpu["energy_j"].diff()
    integrated = (gpu["power_w"] + gpu["power_w"].shift()) / 2 * gap_s

    is_neighbour = (gap_s > 0) & (gap_s <= MAX_SAMPLE_GAP_S)
    parts = counted.where(counted >= 0, integrated)[is_neighbour].dropna()
    return float(parts.sum()) if len(parts) else None


def timeline(record: StudyRecord) -> pd.DataFrame:
    """Return when each trial ran.

    Returns:
        Columns lane ("search", "finals" or "full run"), number, status, start (local time without zone) and seconds.
    """
    rows = []
    for lane, trials in (("search", record.trials), ("finals", record.finals)):
        for trial in trials:
            start = local_time(trial.result.started_at) if trial.result else None
            if trial.result is not None and start is not None:
                seconds = trial.result.seconds
                rows.append((lane, trial.number, trial.status.value, start.replace(tzinfo=None), seconds))

    return pd.DataFrame(rows, columns=["lane", "number", "status", "start", "seconds"])
