"""The trials that no other beats in both loss and speed, or in both loss and training time."""

from __future__ import annotations

import pandas as pd

from autotune.core.objectives import pareto_front
from autotune.store.study_record import StudyRecord
from reports.tables.trials import settings_table, trials_table


def speed_front(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the finished trials that no other beats in both loss and speed, fastest first.

    Args:
        trials: As `reports.tables.trials.trials_table` gives it.

    Returns:
        Columns number, tokens_per_s and loss (nats per token).
    """
    is_known = trials["loss"].notna() & trials["tokens_per_s"].notna()
    done = trials.loc[is_known, ["number", "tokens_per_s", "loss"]]
    ordered = done.sort_values(["tokens_per_s", "loss"], ascending=[False, True], kind="stable")

    # A trial is beaten when one that is faster has at most its loss.
    lowest_of_faster = ordered["loss"].cummin().shift()
    is_unbeaten = (ordered["loss"] < lowest_of_faster) | lowest_of_faster.isna()
    return ordered[is_unbeaten].reset_index(drop=True)


def front_table(record: StudyRecord) -> pd.DataFrame:
    """Return the finished trials that no other beats in both loss and training seconds, lowest loss first.

    Args:
        record: The study.

    Returns:
        Columns number, loss (nats per token), training_s and the settings by dotted path.
    """
    trials = trials_table(record).set_index("number", drop=False)
    numbers = [trial.number for trial in pareto_front(record.trials)]
    front = trials.loc[numbers, ["number", "loss", "training_s"]]
    return front.join(settings_table(record)).reset_index(drop=True)
