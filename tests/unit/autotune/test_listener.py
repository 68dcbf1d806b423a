"""What is refreshed while a study runs, how often, and what happens when that fails."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune import listener as listening
from autotune.listener import Listener
from autotune.run_directory import RunDirectory, read_lines


class Clock:
    """A monotonic clock that a test winds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_the_page_is_refreshed_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, refreshed = Clock(monkeypatch), []
    listener = Listener(RunDirectory(tmp_path), print, refresh=refreshed.append)
    for _ in range(150):
        clock.now += 1
        listener.tick()
    assert refreshed == [tmp_path, tmp_path]


def test_a_page_that_takes_long_is_refreshed_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, began = Clock(monkeypatch), []

    def refresh(_: Path) -> None:
        began.append(clock.now)
        clock.now += 10

    listener = Listener(RunDirectory(tmp_path), print, refresh=refresh)
    for _ in range(1_000):
        clock.now += 1
        listener.tick()
    assert all(after - before >= 10 / listening.REFRESH_FRAC for before, after in itertools.pairwise(began))
    assert 4 <= len(began) <= 6


def _failing(messages: list[str]) -> Callable[[Path], None]:
    def refresh(_: Path) -> None:
        raise RuntimeError(messages.pop(0))

    return refresh


def test_a_page_that_cannot_be_written_is_told_once_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, said = Clock(monkeypatch), []
    listener = Listener(RunDirectory(tmp_path), said.append, refresh=_failing(["no space", "no space", "torn"]))
    for _ in range(3):
        clock.now += 61
        listener.tick()
    start = "the report could not be refreshed, and the study goes on without: "
    assert said == [f"{start}no space", f"{start}torn"]
    assert [event["kind"] for event in read_lines(RunDirectory(tmp_path).events)] == ["report", "report"]
