import math

import numpy as np
import pandas as pd
import pytest
import study_builder

from autotune.store.study_store import StudyRecord
from reports.tables.curves import curve_band, curves_table
from reports.tables.finals import baseline_loss, finals_runs, finals_table, t_interval
from reports.tables.machine import energy_j, gpu_table, run_times
from reports.tables.trials import best_so_far_table, settings_table, trials_table


def test_trials_table_holds_final_and_last_losses(night: StudyRecord) -> None:
    table = trials_table(night).set_index("number")

    assert list(table["loss"].dropna().items()) == [(0, 5.0), (1, 4.8), (3, 5.2), (6, 4.6), (9, 4.7), (10, 4.9)]
    assert table.at[2, "last_loss"] == 6.1 and table.at[2, "last_tokens"] == 500
    assert table.at[4, "last_loss"] == 6.0, "the last finite loss of a diverged trial"
    assert math.isnan(table.at[5, "last_loss"])
    assert table.at[5, "cause"] == "needed 20 GiB of 15"
    assert table.at[6, "tokens_per_s"] == 5.0
    assert table.at[6, "epochs"] == 1.25


def test_speed_falls_back_on_the_whole_trial() -> None:
    table = trials_table(study_builder.minimal_study()).set_index("number")

    assert table.at[6, "tokens_per_s"] == 1000 / 200
    assert table["val_accuracy"].isna().all() and table["epochs"].isna().all()


def test_a_running_trial_shows_what_it_has_reported() -> None:
    table = trials_table(study_builder.running_study()).set_index("number")

    assert table.at[4, "last_loss"] == 5.4 and table.at[4, "last_tokens"] == 500
    assert table.at[5, "status"] == "waiting" and math.isnan(table.at[5, "last_loss"])


def test_an_empty_study_gives_empty_numeric_tables() -> None:
    table = trials_table(study_builder.empty_study())

    assert len(table) == 0
    assert table["loss"].dtype == float
    assert len(best_so_far_table(table)) == 0


def test_a_finished_trial_with_a_loss_that_is_not_finite_has_no_loss() -> None:
    bad = study_builder.trial(0, "finished", [5.0, math.inf], study_builder.settings(0.02, 0.0, 8, 1))
    table = trials_table(study_builder.study(trials=(bad,)))

    assert table["loss"].isna().all()
    assert table.at[0, "last_loss"] == 5.0


def test_best_so_far_is_the_running_minimum_of_finished_trials(night: StudyRecord) -> None:
    best = best_so_far_table(trials_table(night))

    assert list(best["number"]) == [0, 1, 3, 6, 9, 10]
    assert list(best["best"]) == [5.0, 4.8, 4.8, 4.6, 4.6, 4.6]


def test_settings_table_has_a_column_per_setting_and_none_where_not_searched(night: StudyRecord) -> None:
    bare = study_builder.trial(12, "finished", [5.0], {"optim.muon_lr": 0.01})
    table = settings_table(study_builder.study(trials=(*night.trials, bare)))

    assert list(table.columns) == list(study_builder.SPACE)
    assert table.at[6, "optim.muon_lr"] == 0.05
    assert table.at[12, "model.dropout"] is None


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


def test_energy_counts_the_counter_then_power_and_no_gap(night: StudyRecord) -> None:
    gpu = gpu_table(night)

    # 1000 J and 1500 J by the counter, (150 + 250) / 2 W * 10 s, 250 W * 10 s, and nothing for the hour between.
    assert energy_j(gpu) == pytest.approx(1000 + 1500 + 2000 + 2500)
    assert list(gpu["throttled"]) == [False, False, True, True, False, False]


def test_energy_survives_a_counter_that_starts_again() -> None:
    samples = (study_builder.gpu_sample(0, 100.0, 9000.0), study_builder.gpu_sample(10, 100.0, 5.0))

    assert energy_j(gpu_table(study_builder.study(gpu=samples))) == pytest.approx(1000.0)


def test_energy_is_unknown_without_samples() -> None:
    assert energy_j(gpu_table(study_builder.study(gpu=()))) is None


def test_torn_gpu_samples_are_left_out() -> None:
    samples = ({"power_w": 10.0}, {"time": 5.0, "throttle_reasons": None}, {"time": "x"})
    table = gpu_table(study_builder.study(gpu=samples))

    assert list(table["time"]) == [5.0]
    assert not table["throttled"].any()


def test_timeline_has_a_row_per_run_that_started(night: StudyRecord) -> None:
    rows = run_times(night)

    assert list(rows["lane"]).count("search") == 12 and list(rows["lane"]).count("finals") == 8
    gap = rows.at[1, "start"] - rows.at[0, "start"]
    assert gap.total_seconds() == 120
    assert rows.at[0, "seconds"] == 100.0
    assert len(run_times(study_builder.minimal_study())) == 0
