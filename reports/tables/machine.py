"""The machine as rows: one sample of the GPU or one training a row, and the energy used."""

from __future__ import annotations

from typing import Any

import pandas as pd

from autotune.machine.gpu_monitor import HARMFUL_REASONS
from autotune.store.study_record import StudyRecord
from reports.formats import finite, local_time, or_nan

# Samples further apart belong to different sessions: nothing is known about the time between.
MAX_SAMPLE_GAP_S = 600.0


def gpu_table(record: StudyRecord) -> pd.DataFrame:
    """Return the GPU's samples in the order of time.

    Returns:
        Columns time (Unix seconds), temperature_c, power_w, sm_clock_hz, energy_j, throttled (bool) and reasons.
    """
    names = ("time", "temperature_c", "power_w", "sm_clock_hz", "energy_j")
    rows = []
    for sample in record.gpu:
        row: dict[str, Any] = {name: or_nan(finite(sample.get(name))) for name in names}

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


def run_times(record: StudyRecord) -> pd.DataFrame:
    """Return when each trial ran.

    Returns:
        Columns lane ("search", "finals" or "full run"), number, status, start (local time without zone) and seconds.
    """
    rows = []
    for lane, trials in (("search", record.trials), ("finals", record.finals)):
        for trial in trials:
            if trial.result is None:
                continue

            start = local_time(trial.result.started_at)
            if start is not None:
                seconds = trial.result.seconds
                rows.append((lane, trial.number, trial.status.value, start.replace(tzinfo=None), seconds))

    return pd.DataFrame(rows, columns=["lane", "number", "status", "start", "seconds"])
