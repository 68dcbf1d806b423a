"""How the time of a night is divided: what is cut first, and when it is too short."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.engine.deadline import MARGIN, REPORT_S
from autotune.finals.allotment import FEW_TRIALS, Allotment, allot
from autotune.study.spec import StudySpec


def spec(trials: int = 100, finalists: int = 3, settings: int = 3, attribute_seeds: int = 2) -> StudySpec:
    space = {f"setting_{number}": {"low": 0.1, "high": 1.0} for number in range(settings)}
    finals = {"finalists": finalists, "select_seeds": 1, "prove_seeds": 4, "attribute_seeds": attribute_seeds}
    budget = {"tokens": 1_000, "trials": trials}
    return StudySpec.model_validate({"name": "night", "budget": budget, "space": space, "finals": finals})


def shared(seconds: float, **of_spec: int) -> Allotment:
    """Trainings of 10 s on one device, and nothing but the report after the finals."""
    return allot(spec(**of_spec), seconds, training_s=10.0, slots=1, later_s=REPORT_S)


def test_without_a_deadline_nothing_is_cut() -> None:
    night = shared(math.inf)
    assert (night.finalists, night.attributes, night.is_too_short) == (3, True, False)
    # Three runs choose, eight prove; two seeds of five arms tell the changes apart.
    assert (night.final_runs, night.attributing_runs) == (3 + 8, 2 * 5)
    assert night.finals_s == 210 and night.reserve_s == pytest.approx(210 * MARGIN + REPORT_S)
    assert night.describe_cuts() == ""


@pytest.mark.parametrize(
    ("seconds", "finalists", "attributes"),
    [
        # The search must have half of what the report leaves: 231 s of finals with attribution, 121 s without.
        (REPORT_S + 2 * 231 + 1, 3, True),
        (REPORT_S + 2 * 231 - 1, 3, False),
        (REPORT_S + 2 * 121 + 1, 3, False),
        (REPORT_S + 2 * 121 - 1, 2, False),
        (REPORT_S + 2 * 110 - 1, 1, False),
        (REPORT_S + 40, 1, False),
    ],
)
def test_attribution_is_cut_first_and_then_finalists(seconds: float, finalists: int, attributes: bool) -> None:
    night = shared(seconds)
    assert (night.finalists, night.attributes) == (finalists, attributes)
    assert night.final_runs == (8 if finalists == 1 else 8 + finalists)


def test_what_is_cut_is_said() -> None:
    assert shared(400.0).describe_cuts() == "time is short, so which change gave what is not found out"
    assert shared(200.0).describe_cuts() == (
        "time is short, so which change gave what is not found out and 1 trial is trained again instead of 3"
    )


def test_a_short_search_needs_no_half_of_the_time() -> None:
    """Six trials take 66 s with their margin; the rest is enough for everything."""
    night = shared(REPORT_S + 231 + 67, trials=6)
    assert night.attributes and night.whole_trials >= 6


def test_six_second_trials_in_seven_minutes() -> None:
    """A night that was planned for 12 trials and tried none."""
    night = allot(spec(200, 4, 5, 3), 6.9 * 60, training_s=6.0, slots=1, later_s=REPORT_S)
    assert not night.attributes and night.whole_trials > 20
    assert night.reserve_s < 0.5 * night.seconds


def test_too_little_time_is_refused_with_the_hours_that_would_do() -> None:
    # Four trials and eight runs of 11 s, and the report.
    least_s = REPORT_S + 12 * 11
    assert not shared(least_s + 1).is_too_short and shared(least_s - 1).is_too_short
    refusal = shared(60.0).refusal()
    assert "the 60 s that are left are too short" in refusal
    assert "4 trials, the 8 runs that prove the gain of the best and the report take about 4 min" in refusal
    assert "--hours 0.10 or more" in refusal
    assert not shared(0.10 * 3600).is_too_short


def test_a_few_trials_come_before_the_proof_when_trainings_turn_out_slower() -> None:
    night = shared(REPORT_S + 60.0)
    assert night.reserve_s == pytest.approx(REPORT_S + 60 - FEW_TRIALS * 11)


@given(
    seconds=st.floats(1, 1e5),
    more=st.floats(0, 1e4),
    training_s=st.floats(0.1, 500),
    slots=st.integers(1, 8),
    finalists=st.integers(0, 6),
    trials=st.integers(1, 300),
)
def test_more_time_never_cuts_more(
    seconds: float, more: float, training_s: float, slots: int, finalists: int, trials: int
) -> None:
    study = spec(trials, finalists)
    short = allot(study, seconds, training_s, slots, REPORT_S)
    longer = allot(study, seconds + more, training_s, slots, REPORT_S)
    assert (longer.finalists, longer.attributes) >= (short.finalists, short.attributes)
    assert longer.is_too_short <= short.is_too_short
    assert longer.whole_trials >= 0 and short.reserve_s >= REPORT_S
    if not short.is_too_short:
        assert short.reserve_s + short.search_s == pytest.approx(seconds)
        assert short.whole_trials >= min(FEW_TRIALS, trials) * (1 - 1e-9)
