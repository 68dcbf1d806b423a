import math

import numpy as np
import pytest
import study_builder

from autotune.store.study_record import StudyRecord
from reports.tables.finals import baseline_loss, finals_runs, finals_table, t_interval


def test_finals_table_uses_the_proving_runs_alone(night: StudyRecord) -> None:
    arms = finals_table(finals_runs(night)).set_index("arm_name")

    assert list(arms.index) == ["default", "trial 6", "trial 9"]
    assert arms.at["default", "mean"] == pytest.approx(5.02)
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert arms.at["default", "low"] == pytest.approx(5.02 - half)
    assert arms.at["default", "high"] == pytest.approx(5.02 + half)
    assert arms.at["trial 6", "mean"] == pytest.approx(4.64), "4.61 of the selection must not count"
    assert arms.at["trial 6", "high"] == pytest.approx(4.64 + 2 * half)
    assert arms.at["trial 9", "stage"] == "select"
    assert arms.at["trial 9", "seeds"] == 1 and math.isnan(arms.at["trial 9", "low"])


def test_interval_of_one_value_is_unknown() -> None:
    mean, low, high = t_interval(np.array([4.5]))

    assert mean == 4.5 and math.isnan(low) and math.isnan(high)


def test_baseline_loss_prefers_the_fresh_seeds(night: StudyRecord) -> None:
    assert baseline_loss(night) == 5.02
    assert baseline_loss(study_builder.running_study()) == 5.0
    assert baseline_loss(study_builder.empty_study()) is None
