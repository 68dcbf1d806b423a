"""What is refreshed while a study runs, how often, and what happens when that fails."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from study_case import make_queue, make_study, result

from autotune.core.files import read_lines
from autotune.core.records import EvalPoint, TrialStatus
from autotune.engine.queue import Assignment, Queue
from autotune.progress import observer as listening
from autotune.progress.board import Board
from autotune.progress.observer import Listener
from autotune.store.run_directory import RunDirectory


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


class Boards(list[str]):
    """A display that keeps what it is told."""

    shown = closed = 0

    def __call__(self, line: str) -> None:
        self.append(line)

    def show(self, board: Board) -> None:
        self.shown += 1

    def close(self) -> None:
        self.closed += 1


def _one_of_three(folder: Path) -> tuple[Queue, Assignment]:
    queue = make_queue(folder, make_study(folder))
    queue.enqueue({"lr": 0.01}, role="baseline")
    assignment = queue.take()
    assert assignment is not None
    return queue, assignment


def test_a_silent_log_gets_a_line_every_five_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, assignment = _one_of_three(tmp_path)
    clock, said = Clock(monkeypatch), []
    listener = Listener(queue.run, said.append)
    listener.started(queue, assignment, "cpu")
    for _ in range(650):
        clock.now += 1
        listener.tick()
    assert said == 2 * ["… searching: 0 of 3; trial 0 at 0%"]


def test_a_display_gets_the_board_and_only_lines_worth_keeping(tmp_path: Path) -> None:
    queue, assignment = _one_of_three(tmp_path)
    display = Boards()
    listener = Listener(queue.run, display)
    listener.started(queue, assignment, "cpu")
    listener.progress(queue, assignment, EvalPoint(500, 2.5))
    assert listener.board.running["trials", 0].done_frac == 0.5
    listener.tick()
    listener.ended(queue, assignment, result(loss=2.0))
    listener.ended(queue, assignment, result(loss=2.1))
    listener.ended(queue, assignment, result(TrialStatus.PRUNED, cause="behind"))
    listener.ended(queue, assignment, result(TrialStatus.CRASHED, cause="no luck"))
    listener.close()

    assert [line.split("  [")[0] for line in display] == [
        "✓ trial 0 finished  loss 2.0000 (best so far)",
        "✗ trial 0 crashed: no luck",
    ]
    assert len(listener.board.last) == 4 and listener.board.best == (2.0, 0)
    assert display.shown == 1 and display.closed == 1


def test_a_cause_that_begins_with_the_status_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    queue, assignment = _one_of_three(tmp_path)
    listener = Listener(queue.run, said.append)
    for cause in ("diverged at 30 tokens: loss 9 after 2", "no more"):
        listener.ended(queue, assignment, result(TrialStatus.DIVERGED, cause=cause))
    assert [line.partition("  [")[0] for line in said] == [
        "\u2197 trial 0 diverged at 30 tokens: loss 9 after 2",
        "\u2197 trial 0 diverged: no more",
    ]


def test_a_study_that_goes_on_counts_what_was_done_before(tmp_path: Path) -> None:
    queue, assignment = _one_of_three(tmp_path)
    queue.tell(assignment.trial, result(loss=2.0), assignment.folder)
    listener = Listener(queue.run, print)
    second = queue.take()
    assert second is not None
    listener.started(queue, second, "cpu")

    assert (listener.board.done, listener.board.total) == (1, 3)
    assert listener.board.best == (2.0, 0)
