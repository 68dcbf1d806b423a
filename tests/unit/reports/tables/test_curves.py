import math

import pandas as pd
import pytest

from autotune.store.study_record import StudyRecord
from reports.tables.curves import curve_band, curves_table


def test_curves_table_has_every_evaluation(night: StudyRecord) -> None:
    curves = curves_table(night.trials)

    assert len(curves) == 6 * 4 + 2 + 2 + 0 + 1 + 2 + 1
    assert list(curves[curves["number"] == 6]["val_loss"]) == [5.7, 5.2, 4.9, 4.6]
    assert "val_accuracy" in curves.columns


def test_curve_band_ignores_losses_that_are_not_finite() -> None:
    curves = pd.DataFrame({"tokens_seen": [250] * 4, "val_loss": [1.0, 2.0, 3.0, math.nan]})
    band = curve_band(curves)

    assert band.loc[0].to_dict() == pytest.approx(
        {"tokens_seen": 250, "low": 1.2, "median": 2.0, "high": 2.8, "trials": 3}
    )
