import pytest
import study_builder

from autotune.store.study_record import StudyRecord
from reports.tables.importance import TooFewTrialsError, importance_table


def test_importance_finds_the_setting_that_decides() -> None:
    trials = tuple(
        study_builder.trial(
            number, "finished", [6.0, 4.0 + abs(number - 15) / 10],
            study_builder.settings(
                0.001 * 100 ** (number / 30), 0.3 * (number * 7 % 31) / 31, (4, 8, 16)[number % 3], 1
            ),
        )
        for number in range(31)
    )  # fmt: skip
    shares = importance_table(study_builder.study(trials=trials))

    assert shares.at[0, "path"] == "optim.muon_lr"
    assert shares["importance_frac"].sum() == pytest.approx(1.0)
    assert shares.at[0, "importance_frac"] > 0.5


def test_importance_refuses_few_trials(night: StudyRecord) -> None:
    with pytest.raises(TooFewTrialsError, match="15 finished trials, and there are 6"):
        importance_table(night)


def test_importance_refuses_equal_losses() -> None:
    trials = tuple(
        study_builder.trial(number, "finished", [5.0], study_builder.settings(0.01 + number / 1000, 0.0, 8, 1))
        for number in range(20)
    )
    with pytest.raises(TooFewTrialsError, match="same loss"):
        importance_table(study_builder.study(trials=trials))


def test_importance_leaves_out_settings_from_outside_the_space(forty: StudyRecord) -> None:
    outside = study_builder.trial(99, "finished", [0.1], study_builder.settings(5.0, 0.0, 8, 1))
    with_outside = study_builder.large_study(40, 20)
    with_outside = study_builder.replace(with_outside, trials=(*with_outside.trials, outside))

    assert importance_table(with_outside).equals(importance_table(forty))
