"""The tables that the figure cards of a study share."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from autotune.core.metric import Metric
from autotune.store.study_record import StudyRecord
from reports.tables.curves import at_equal_shares, curves_table
from reports.tables.importance import importance_table
from reports.tables.roles import named_trials
from reports.tables.trials import settings_table, trials_table


class StudyTables:
    """The tables of a study, each worked out once and only when a card wants it.

    Args:
        record: The study.
    """

    def __init__(self, record: StudyRecord) -> None:
        self.record = record

    @property
    def metric(self) -> Metric:
        """What trials report."""
        return self.record.attributes.metric

    @cached_property
    def trials(self) -> pd.DataFrame:
        """As `trials_table`."""
        return trials_table(self.record)

    @cached_property
    def settings(self) -> pd.DataFrame:
        """As `settings_table`."""
        return settings_table(self.record)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """As `curves_table`, of the search, at equal shares of the training."""
        return curves_table(at_equal_shares(self.record).trials)

    @cached_property
    def importance(self) -> pd.DataFrame:
        """As `importance_table`."""
        return importance_table(self.record)

    @cached_property
    def names(self) -> dict[int, str]:
        """As `named_trials`."""
        return named_trials(self.record)

    @property
    def baseline_number(self) -> int | None:
        """The default's trial number."""
        if self.record.baseline is None:
            return None
        return self.record.baseline.number
