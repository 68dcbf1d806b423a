"""The finals as rows: one run or one arm a row, with its mean and interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from autotune.core.statistics import CONFIDENCE, student_quantile
from autotune.finals.verdict import ATTRIBUTE
from autotune.store.study_record import StudyRecord
from reports.formats import finite


def finals_runs(record: StudyRecord) -> pd.DataFrame:
    """Return the finals' runs that finished, a row each; those without some of the winner's changes are not its own.

    Returns:
        Columns arm (search trial number), arm_name, stage, seed and loss (nats per token).
    """
    baseline = None
    if record.baseline is not None:
        baseline = record.baseline.number

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

    if record.baseline is None:
        return None
    return finite(record.baseline.loss)
