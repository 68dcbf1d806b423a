"""What becomes of a full run when the end of its night is moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from study_case import make_study

from autotune.core.study_results import Plan
from autotune.engine.deadline import MARGIN, REPORT_S
from autotune.night.replanning import Rest, describe_rest, replanned
from autotune.night.search_share import search_seconds
from autotune.promotion.early_end import END_MARGIN, EXPORT_S
from autotune.study.study_file import Study

# A trial of 1,000 tokens takes 10 s.
REST = Rest(seconds_left=3_600.0, token_s=0.01, slots=1, searched_s=20.0, is_proved=False, train_tokens=0)
PLAN = Plan(trial_s=10.0, finals_s=120.0, full_s=20_000.0, run_tokens=2_000_000)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path, "promote.automatic=true", "promote.bracket=false")


def test_the_full_run_takes_what_search_and_finals_leave_of_the_new_time(study: Study) -> None:
    anew = replanned(study, PLAN, REST)
    seconds = 3_600 - MARGIN * 120 - EXPORT_S - REPORT_S
    further_s = search_seconds(seconds + 20, 10.0) - 20
    assert further_s > 0
    run_s = (seconds - further_s) / END_MARGIN
    assert anew == replace(PLAN, run_tokens=int(100 * run_s), full_s=pytest.approx(run_s + EXPORT_S, abs=0.02))
    assert describe_rest(anew, 3_600).endswith("the full run gets about 54 min")


def test_after_the_search_it_gets_its_share_too_and_after_the_proof_that_of_the_finals(study: Study) -> None:
    runs = [replanned(study, PLAN, rest).run_tokens for rest in (
        REST, replace(REST, searched_s=None), replace(REST, searched_s=None, is_proved=True)
    )]  # fmt: skip
    assert runs == sorted(set(runs))
    later = replace(REST, seconds_left=36_000.0)
    assert replanned(study, PLAN, later).run_tokens > 10 * runs[0]


def test_a_search_that_has_hardly_begun_keeps_the_time_of_a_few_trials(study: Study) -> None:
    """Three of 10 s, beside a full run of less than two minutes, where the share of a search alone would be less."""
    soon = replace(REST, seconds_left=300.0, searched_s=0.0)
    seconds = 300 - MARGIN * 120 - EXPORT_S - REPORT_S
    assert search_seconds(seconds, 10.0) < 3 * MARGIN * 10
    assert replanned(study, PLAN, soon).full_s == pytest.approx((seconds - 33) / END_MARGIN + EXPORT_S, abs=0.02)


def test_where_there_is_no_time_for_it_the_finals_get_what_there_is(study: Study) -> None:
    anew = replanned(study, PLAN, replace(REST, seconds_left=170.0))
    assert (anew.full_s, anew.run_tokens) == (0.0, 1_000)
    assert describe_rest(anew, 170).endswith("there is no time for a full run after the search and its proof")


def test_a_run_of_fixed_length_keeps_it_while_it_fits_beside_the_finals(study: Study) -> None:
    fixed = replace(PLAN, run_tokens=0, full_s=80.0)
    assert replanned(study, fixed, REST) == fixed
    assert replanned(study, fixed, replace(REST, seconds_left=200.0)).full_s < 80.0


def test_without_a_full_run_nothing_changes(tmp_path: Path) -> None:
    assert replanned(make_study(tmp_path), PLAN, REST) == PLAN
