"""The tables that the figure cards of a study share."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from autotune.store.study_store import StudyRecord
from reports import analyses, tables


class StudyTables:
    """The tables of a study, each worked out once and only when a card wants it.

    Args:
        record: The study.
    """

    def __init__(self, record: StudyRecord) -> None:
        self.record = record

    @cached_property
    def trials(self) -> pd.DataFrame:
        """As `tables.trials_table`."""
        return tables.trials_table(self.record)

    @cached_property
    def settings(self) -> pd.DataFrame:
        """As `tables.settings_table`."""
        return tables.settings_table(self.record)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """As `tables.curves_table`, of the search, at equal shares of the training."""
        return tables.curves_table(tables.at_equal_shares(self.record).trials)

    @cached_property
    def importance(self) -> pd.DataFrame:
        """As `analyses.importance`."""
        return analyses.importance(self.record)

    @property
    def baseline_number(self) -> int | None:
        """The default's trial number."""
        if self.record.baseline is None:
            return None
        return self.record.baseline.number
