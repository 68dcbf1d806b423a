"""Deadlines by the clock on the wall, and the pace of trainings."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from autotune.engine.deadline import Deadline, Interval, Pace, seconds_until

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "time_of_day", "hours"),
    [
        (datetime(2026, 7, 1, 22, 0, tzinfo=UTC), "07:00", 9),
        (datetime(2026, 7, 1, 6, 0, tzinfo=UTC), "07:00", 1),
        (datetime(2026, 7, 1, 7, 0, tzinfo=UTC), "07:00", 24),
        (datetime(2026, 7, 1, 23, 59, tzinfo=UTC), "00:00", 1 / 60),
        (datetime(2026, 7, 1, 0, 0, 30, tzinfo=UTC), "00:00", 24 - 1 / 120),
        (datetime(2026, 12, 31, 22, 0, tzinfo=UTC), "06:30", 8.5),
        # The clocks go forward in the night to 29 March 2026, and back in that to 25 October.
        (datetime(2026, 3, 28, 22, 0, tzinfo=BERLIN), "07:00", 8),
        (datetime(2026, 10, 24, 22, 0, tzinfo=BERLIN), "07:00", 10),
    ],
)
def test_seconds_until(now: datetime, time_of_day: str, hours: float) -> None:
    assert seconds_until(time_of_day, now) == pytest.approx(hours * 3600)


def test_this_machines_own_zone_changes_its_clocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert seconds_until("07:00", datetime(2026, 3, 28, 22, 0)) == 8 * 3600
    finally:
        monkeypatch.undo()
        time.tzset()


def test_without_a_deadline_there_is_always_time() -> None:
    assert Deadline().seconds_left == float("inf")


def test_the_earlier_of_two_deadlines_counts() -> None:
    in_two_hours = (datetime.now() + timedelta(hours=2)).strftime("%H:%M")
    assert 0 < Deadline(hours=1, until=in_two_hours).seconds_left <= 3600
    assert 3600 < Deadline(hours=12, until=in_two_hours).seconds_left <= 7200


def test_pace_expects_until_it_has_measured() -> None:
    pace = Pace()
    assert pace.seconds(1_000) == 0
    pace.expect(tokens=100, seconds=10)
    assert pace.seconds(1_000) == pytest.approx(100)
    pace.learn(tokens=100, seconds=5)
    assert pace.seconds(1_000) == pytest.approx(50)
    pace.learn(tokens=0, seconds=500)
    assert pace.seconds(1_000) == pytest.approx(50)


def test_many_trainings_go_by_the_median_with_the_estimate() -> None:
    """A slow one must not count for each of those to come."""
    pace = Pace()
    assert pace.usual_seconds(10) == 0
    pace.expect(tokens=100, seconds=400)
    pace.learn(tokens=1, seconds=12)
    assert (pace.usual_seconds(1), pace.seconds(1)) == (8, 12)
    for _ in range(3):
        pace.learn(tokens=1, seconds=5)
    assert (pace.usual_seconds(10), pace.seconds(1)) == (50, 12)


def test_the_first_training_of_a_process_counts_until_another_is_measured() -> None:
    pace = Pace()
    pace.learn(tokens=1, seconds=12, is_cold=True)
    assert (pace.usual_seconds(1), pace.seconds(1)) == (12, 12)
    pace.expect(tokens=1, seconds=2)
    assert (pace.usual_seconds(1), pace.seconds(1)) == (2, 12)
    pace.learn(tokens=1, seconds=4)
    pace.learn(tokens=1, seconds=11, is_cold=True)
    assert (pace.usual_seconds(1), pace.seconds(1)) == (3, 4)


def test_trainings_of_another_kind_forget_the_pace_of_those_before() -> None:
    pace = Pace()
    pace.learn(tokens=1, seconds=9)
    pace.begin_anew(tokens=100, seconds=50)
    assert (pace.usual_seconds(10), pace.seconds(10)) == (5, 5)
    pace.learn(tokens=1, seconds=2)
    assert pace.seconds(10) == 20


def test_pace_goes_by_the_slowest_of_the_last_twenty() -> None:
    pace = Pace()
    pace.learn(tokens=1, seconds=9)
    for _ in range(19):
        pace.learn(tokens=1, seconds=2)
    assert pace.seconds(10) == 90
    pace.learn(tokens=1, seconds=2)
    assert pace.seconds(10) == 20


def test_an_interval_passes_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    interval = Interval(10)
    passed = []
    for _ in range(25):
        now += 1
        if interval.has_passed():
            passed.append(now)
    assert passed == [111, 122]
