"""When a run ends so that it is over before its deadline, on numbers that a person can follow."""

from __future__ import annotations

import pytest

from autotune.core.records import EvalPoint
from autotune.engine.deadline import REPORT_S
from autotune.promotion.early_end import EXPORT_S, EarlyEnd, RunPace

KEPT_S = REPORT_S + EXPORT_S
BUDGET = 1_000_000


def point(tokens: int, **metrics: float) -> EvalPoint:
    return EvalPoint(tokens, 3.0, metrics)


# --- the pace ---


def test_the_pace_is_that_of_the_last_three_evaluations() -> None:
    pace = RunPace()
    assert pace.tokens_per_s is None
    for now, tokens in ((100.0, 10), (101.0, 20), (102.0, 30), (104.0, 40), (108.0, 50)):
        pace.take(point(tokens), now)
    assert pace.tokens_per_s == pytest.approx(30 / 7)
    assert pace.latest == pytest.approx(10 / 4)


def test_the_time_before_the_first_evaluation_does_not_count() -> None:
    pace = RunPace()
    pace.take(point(10), 500.0)
    assert pace.tokens_per_s is None
    pace.take(point(20), 502.0)
    assert pace.tokens_per_s == pytest.approx(5)


def test_what_a_trainer_repeats_from_its_checkpoint_does_not_count() -> None:
    pace = RunPace(reached=30)
    for now, tokens in ((1.0, 10), (1.001, 20), (1.002, 30), (6.0, 40)):
        pace.take(point(tokens), now)
        assert pace.tokens_per_s is None
    pace.take(point(50), 11.0)
    assert pace.tokens_per_s == pytest.approx(2)


def test_a_trainers_clock_tells_what_is_trained_anew_from_what_is_repeated() -> None:
    """Killed at 30 tokens, the run goes on from 20: the third evaluation is trained again, and can be timed."""
    pace = RunPace(reached=30)
    pace.take(point(10, elapsed_s=5.0), 1.0)
    pace.take(point(20, elapsed_s=10.0), 1.001)
    assert pace.tokens_per_s is None
    pace.take(point(30, elapsed_s=15.0), 6.0)
    assert pace.tokens_per_s == pytest.approx(10 / 4.999)


# --- the end ---


def decided(end: EarlyEnd, seen: int, tokens_per_s: float | None, room_s: float, interval: int = 10_000) -> int | None:
    moved = end.decide(seen, interval, tokens_per_s, room_s + KEPT_S)
    return end.end_tokens if moved else None


@pytest.mark.parametrize(
    ("seen", "tokens_per_s", "room_s", "expected"),
    [
        (500_000, 1_000.0, 500.0, None),  # it just fits
        (500_000, 1_000.0, float("inf"), None),
        (500_000, None, 1.0, None),
        (500_000, 1_000.0, 103.0, 600_000),  # 103 s with a margin of 3 % are 100,000 tokens
        (500_000, 1_000.0, 499.0, 980_000),  # 984,466, in units that a person reads
        (500_000, 1_000.0, 10.0, None),  # not even to the next evaluation: nothing is gained by saying so
        (500_000, 1_000.0, -5.0, None),
        (0, 1_000.0, 100.0, 90_000),
        (1_000_000, 1_000.0, 0.0, None),
    ],
)
def test_it_ends_where_the_rest_fits(
    seen: int, tokens_per_s: float | None, room_s: float, expected: int | None
) -> None:
    assert decided(EarlyEnd(BUDGET, BUDGET), seen, tokens_per_s, room_s) == expected


def test_a_steady_run_decides_once() -> None:
    end, room_s, seen = EarlyEnd(BUDGET, BUDGET), 600.0, 0
    ends = []
    while seen < end.end_tokens:
        seen, room_s = seen + 10_000, room_s - 10
        ends.append(decided(end, seen, 1_000.0, room_s))
    assert ends == [580_000, *[None] * 57]
    assert room_s >= 0


def test_a_run_that_becomes_slower_again_and_again_is_still_in_time() -> None:
    end, room_s, seen = EarlyEnd(BUDGET, BUDGET), 1_100.0, 0
    speed = 1_000.0
    while seen < end.end_tokens:
        speed *= 0.99
        room_s -= min(10_000, end.end_tokens - seen) / speed
        seen = min(seen + 10_000, end.end_tokens)
        decided(end, seen, speed, room_s)
    assert 500_000 < end.end_tokens < BUDGET
    assert room_s >= -1  # what is kept for the report and the export is many times that


def test_the_end_comes_later_again_only_in_the_first_half_and_if_it_is_worth_it() -> None:
    assert decided(EarlyEnd(BUDGET, 600_000), 200_000, 1_000.0, 515.0) == 700_000
    assert decided(EarlyEnd(BUDGET, 600_000), 200_000, 1_000.0, 425.0) is None
    assert decided(EarlyEnd(BUDGET, 600_000), 300_000, 1_000.0, 515.0) is None
    # An end is always below the budget, or it would not be one.
    assert decided(EarlyEnd(BUDGET, 600_000), 200_000, 1_000.0, float("inf")) == 990_000


def test_much_time_that_comes_too_late_is_known() -> None:
    end = EarlyEnd(BUDGET, 400_000)
    assert decided(end, 250_000, 1_000.0, 300.0) is None and not end.stays
    assert decided(end, 250_000, 1_000.0, 3_600.0) is None and end.stays


def test_small_budgets_are_not_rounded_away() -> None:
    assert decided(EarlyEnd(500, 500), 100, 1.0, 206.0, interval=5) == 300
