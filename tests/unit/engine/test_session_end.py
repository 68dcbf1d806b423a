"""The end of a session: when a study parks before it, and what is said of it beforehand."""

from __future__ import annotations

import re
from datetime import datetime

import pytest

from autotune.engine.deadline import Deadline, StopRequest
from autotune.engine.session_end import SessionEnd


def test_without_an_end_there_is_always_time() -> None:
    session = SessionEnd()
    assert session.seconds_left == session.usable_s == float("inf")
    assert session.lines(1e9, datetime.now()) == []


@pytest.mark.parametrize(("hours", "margin_s"), [(11.0, 180.0), (0.1, 36.0)])
def test_it_parks_before_the_end(hours: float, margin_s: float) -> None:
    session = SessionEnd(hours)
    assert session.margin_s == pytest.approx(margin_s)
    assert session.seconds_left == pytest.approx(hours * 3600 - margin_s, abs=5)
    assert session.ends_in_s == pytest.approx(hours * 3600, abs=5)


def test_a_slow_snapshot_has_its_time() -> None:
    took = [0.0]
    session = SessionEnd(11.0, lambda: took[0])
    before = session.seconds_left
    took[0] = 400.0
    assert before - session.seconds_left == pytest.approx(400, abs=5)


@pytest.mark.parametrize(("hours", "sessions"), [(10.9, 0), (12, 2), (20, 2), (22, 3), (100, 10)])
def test_the_sessions_of_a_night_are_told(hours: float, sessions: int) -> None:
    lines = SessionEnd(11.0).lines(hours * 3600, datetime(2026, 1, 5, 20, 0))
    assert len(lines) == bool(sessions)
    if lines:
        ((kind, words),) = lines
        assert kind == "plan" and f"{sessions} sessions of 11.0 h" in words and re.search("at about 06:5[67]", words)


def test_what_was_worked_is_kept_with_what_was_before() -> None:
    kept: list[float] = []
    session = SessionEnd(11.0)
    session.tick()
    session.keep()
    session.count(3600.0, kept.append)
    session.tick()
    assert kept == []
    session.keep()
    assert kept == [pytest.approx(3600, abs=5)]


def test_hours_of_earlier_sessions_are_taken_off_and_a_time_of_day_is_not() -> None:
    deadline = Deadline(hours=20)
    deadline.take_off(11 * 3600)
    assert deadline.seconds_left == pytest.approx(9 * 3600, abs=5)
    until = Deadline(until="07:00")
    before = until.seconds_left
    until.take_off(3600)
    assert until.seconds_left == pytest.approx(before, abs=5)


def test_the_end_of_a_session_is_told_from_the_users_wish() -> None:
    stop = StopRequest()
    stop.end_session("the session ends")
    assert (stop.level, stop.by) == (1, "as the session ends")
    asked = StopRequest()
    asked.raise_level()
    asked.end_session("the session ends")
    assert (asked.level, asked.by) == (1, "by the user")


def test_a_process_that_leaves_a_shared_study_parks_before_its_own_end() -> None:
    session = SessionEnd()
    session.leave_within(100.0)
    assert 80 < session.seconds_left <= 90
    assert session.usable_s == float("inf"), "no training is too long for the study, which others go on with"


def test_a_coordinator_that_was_replaced_goes_on_unless_the_user_stops_it_too() -> None:
    stop = StopRequest()
    stop.step_down()
    assert stop.level == 1 and stop.by != StopRequest.USER
    assert stop.goes_on() and (stop.level, stop.by) == (0, StopRequest.USER)
    stop.step_down()
    stop.park(now=False)
    assert not stop.goes_on() and (stop.level, stop.by) == (1, StopRequest.USER)
