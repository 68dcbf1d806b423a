import math
from dataclasses import replace

import pytest
import study_builder

from autotune.core.records import TrialStatus
from autotune.store.study_record import StudyRecord
from reports.tables.curves import curves_table
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


def test_a_running_trial_of_several_seeds_shows_no_seeds_as_tokens() -> None:
    running = replace(
        study_builder.running_study().trials[4], values={}, seed_losses=(5.0, 5.2), status=TrialStatus.RUNNING
    )
    row = trials_table(study_builder.study(trials=(running,))).iloc[0]

    assert row["last_loss"] == pytest.approx(5.1) and math.isnan(row["last_tokens"])
    assert curves_table((running,)).empty
