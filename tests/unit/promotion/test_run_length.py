"""How long a full run is, and which shorter ones precede it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_case import make_study, result

from autotune.core.records import TrialRecord, TrialStatus
from autotune.core.study_results import Plan
from autotune.promotion.run_length import (
    Check,
    batch_of_the_best,
    full_tokens,
    has_least_batch,
    length_rules,
    longest_run,
)

RATES, BOTH = Check(1, repeats=True), Check(2, repeats=True)


def test_three_trainings_for_one_kind_of_setting_and_five_for_two() -> None:
    assert [Check(number, repeats=True).trainings for number in range(3)] == [0, 3, 5]


def test_brackets_lie_at_the_trials_length_and_half_way_to_the_run() -> None:
    assert RATES.lengths(1_000, 9_000) == (1_000, 3_000)
    assert BOTH.lengths(1_000, 100_000) == (1_000, 10_000)
    assert Check(0, repeats=True).lengths(1_000, 100_000) == ()


def test_they_cost_no_more_than_they_are_worth() -> None:
    """Of 2,704 trials, 5 trainings of 1 and of 52 are 265. Of text that repeats, runs of 8 trials or more have them."""
    assert BOTH.lengths(1_000, 8_000) and not BOTH.lengths(1_000, 7_999)
    once = Check(2, repeats=False)
    assert once.lengths(1_000, 2_704_000) and not once.lengths(1_000, 2_500_000)
    assert RATES.lengths(1_000, 8_000) and not RATES.lengths(1_000, 7_999)


def test_the_longest_run_leaves_time_for_its_brackets() -> None:
    assert RATES.longest(1_000, 900_000 + 3 * 30_000 + 3_000) == pytest.approx(900_000, abs=1)
    assert RATES.longest(1_000, 500) == 500
    assert Check(2, repeats=False).longest(1_000, 41_000) == 41_000
    # At half the run's speed, brackets take twice their tokens.
    assert RATES.longest(1_000, 3_600_000 + 2 * (3 * 60_000 + 3_000), 2.0) == pytest.approx(3_600_000, abs=1)


def test_it_is_not_shortened_by_more_than_a_tenth_for_brackets(tmp_path: Path) -> None:
    """Three trainings at two lengths cost 12 of 21 lengths of a trial, and 85.5 of 840, a little more than a tenth."""
    assert RATES.longest(1_000, 9_000 + 3 * 3_000 + 3 * 1_000) == 21_000
    assert RATES.longest(1_000, 840_000) == 840_000
    study = make_study(tmp_path, 'trainer="length_fake_trainer:train"')
    assert longest_run(study, 4_000, 1_000, 28_000) == 28_000  # seven readings
    assert longest_run(study, 100_000, 1_000, 1_000_000) == RATES.longest(1_000, 1_000_000) < 1_000_000
    assert longest_run(study, 0, 1_000, 28_000) == 28_000


def test_a_run_that_nobody_asked_for_ends_where_readings_are_worth_little(tmp_path: Path) -> None:
    """After 16.39 readings, or as a trial does where that is longer."""
    study = make_study(tmp_path, 'trainer="length_fake_trainer:train"')
    assert longest_run(study, 1_000, 1_000, 10**6) == 16_390
    assert longest_run(study, 10, 1_000, 10**6) == 1_000


@given(trial=st.integers(100, 10_000), times=st.floats(0.1, 1000), number=st.integers(0, 2), repeats=st.booleans())
def test_a_longest_run_with_its_brackets_fits(trial: int, times: float, number: int, repeats: bool) -> None:
    check, tokens = Check(number, repeats), int(trial * times)
    run = check.longest(trial, tokens)
    assert run <= tokens
    if run < tokens:
        assert run + check.trainings * sum(check.lengths(trial, run)) <= tokens + check.trainings


def test_an_automatic_run_is_planned_with_what_precedes_it(tmp_path: Path) -> None:
    study = make_study(tmp_path, "promote={tokens = 16000, automatic = true}")

    def seconds(tokens: int) -> float:
        return tokens / 1_000

    assert BOTH.full_run_s(study.spec, 16_000, seconds, slots=1) == pytest.approx(16 + 5 * (1 + 4))
    assert BOTH.full_run_s(study.spec, 16_000, seconds, slots=2) == pytest.approx(16 + 5 * (1 + 4) / 2)
    by_hand = make_study(tmp_path, "promote={tokens = 16000}")
    assert BOTH.full_run_s(by_hand.spec, 16_000, seconds, slots=1) == 0.0


def test_the_batch_moves_only_where_it_was_searched(tmp_path: Path) -> None:
    kept = make_study(tmp_path, 'trainer="batch_fake_trainer:train"')
    assert length_rules(kept) == {"lr": "learning_rate"} and Check.of(kept, 1, 100) == RATES
    searched = make_study(tmp_path, 'trainer="batch_fake_trainer:train"', "space.batch={low = 1, high = 8}")
    assert length_rules(searched) == {"lr": "learning_rate", "batch": "batch"}
    assert Check.of(searched, 1, 100) == BOTH


def test_the_batches_of_the_best_trials_count_the_more_the_more_there_are(tmp_path: Path) -> None:
    """Of ten trials two are the best, with batches of 4 and 1: half of 4 in the mean, weighed with two thirds."""

    def trial(loss: float, batch: int, status: TrialStatus = TrialStatus.FINISHED) -> TrialRecord:
        return TrialRecord(0, {"batch": batch}, status, result(loss=loss))

    study = make_study(tmp_path, 'trainer="batch_fake_trainer:train"', "space.batch={low = 1, high = 8}")
    config = {"lr": 0.1, "batch": 4}
    ten = [trial(2.0, 4), trial(2.1, 1), *[trial(3.0, 8)] * 8, trial(1.0, 8, TrialStatus.PRUNED)]
    assert batch_of_the_best(study, config, ten) == pytest.approx(0.5 ** (2 / 3))
    assert batch_of_the_best(study, config, ten[1:2]) == pytest.approx(0.25**0.5)
    assert batch_of_the_best(study, config, ()) == 1.0
    kept = make_study(tmp_path, 'trainer="batch_fake_trainer:train"')
    assert batch_of_the_best(kept, config, ten) == 1.0


def test_a_trial_knows_whether_its_batch_is_the_smallest(tmp_path: Path) -> None:
    study = make_study(tmp_path, 'trainer="batch_fake_trainer:train"', "space.batch={low = 2, high = 8}")
    assert [has_least_batch(study, {"lr": 0.1, "batch": batch}) for batch in (1, 2, 3)] == [True, True, False]
    kept = make_study(tmp_path, 'trainer="batch_fake_trainer:train"')
    assert not has_least_batch(kept, {"lr": 0.1, "batch": 1})


def test_a_study_may_leave_them_out(tmp_path: Path) -> None:
    off = make_study(tmp_path, 'trainer="length_fake_trainer:train"', "promote.bracket=false")
    assert Check.of(off, 1, 100).lengths(1_000, 10**6) == ()


def test_a_trainer_whose_warm_up_alone_moves_has_none(tmp_path: Path) -> None:
    study = make_study(tmp_path, 'trainer="fake_trainer:train"')
    assert Check.of(study, 1, 100) == Check(0, repeats=True)


def test_the_full_run_is_eight_trials_long_unless_the_study_says(tmp_path: Path) -> None:
    assert full_tokens(make_study(tmp_path).spec) == 8_000
    assert full_tokens(make_study(tmp_path, "promote={tokens = 123}").spec, Plan(run_tokens=5_000)) == 123


def test_a_plan_may_give_it_the_rest_of_the_night(tmp_path: Path) -> None:
    assert full_tokens(make_study(tmp_path).spec, Plan(run_tokens=5_000)) == 5_000
    assert full_tokens(make_study(tmp_path).spec, Plan()) == 8_000
