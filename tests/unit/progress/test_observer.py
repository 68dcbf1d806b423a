"""What is refreshed while a study runs, how often, and what happens when that fails."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from study_case import result

from autotune.core.files import read_lines
from autotune.core.records import EvalPoint, TrainingKind, TrialRecord, TrialStatus
from autotune.progress import observer as observing
from autotune.progress.board import Board
from autotune.progress.observer import RunObserver, TrainingInfo
from autotune.store.run_directory import RunDirectory


class Clock:
    """A monotonic clock that a test winds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_the_page_is_refreshed_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, refreshed = Clock(monkeypatch), []
    observer = RunObserver(RunDirectory(tmp_path), print, refresh=refreshed.append)
    for _ in range(150):
        clock.now += 1
        observer.tick()
    assert refreshed == [tmp_path, tmp_path]


def test_a_page_that_takes_long_is_refreshed_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, began = Clock(monkeypatch), []

    def refresh(_: Path) -> None:
        began.append(clock.now)
        clock.now += 10

    observer = RunObserver(RunDirectory(tmp_path), print, refresh=refresh)
    for _ in range(1_000):
        clock.now += 1
        observer.tick()
    assert all(after - before >= 10 / observing.REFRESH_FRAC for before, after in itertools.pairwise(began))
    assert 4 <= len(began) <= 6


def _failing(messages: list[str]) -> Callable[[Path], None]:
    def refresh(_: Path) -> None:
        raise RuntimeError(messages.pop(0))

    return refresh


def test_a_page_that_cannot_be_written_is_told_once_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, said = Clock(monkeypatch), []
    observer = RunObserver(RunDirectory(tmp_path), said.append, refresh=_failing(["no space", "no space", "torn"]))
    for _ in range(3):
        clock.now += 61
        observer.tick()
    start = "the report could not be refreshed (the study goes on without it): "
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


TRAINING = TrainingInfo(TrainingKind.SEARCH, 0, 1_000, {"lr": 0.01}, seed=1)


def record(number: int, status: TrialStatus, loss: float = 2.0) -> TrialRecord:
    ended = None if status in (TrialStatus.RUNNING, TrialStatus.WAITING) else result(status, loss)
    return TrialRecord(number, {}, status, ended)


def test_a_silent_log_gets_a_line_every_five_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(monkeypatch), []
    observer = RunObserver(RunDirectory(tmp_path), said.append)
    observer.entered(TrainingKind.SEARCH, [record(0, TrialStatus.RUNNING)], wanted=3)
    observer.started(TRAINING, "cpu")
    for _ in range(650):
        clock.now += 1
        observer.tick()
    assert said == 2 * ["… searching: 0 of 3; trial 0 at 0%"]


def test_a_display_gets_the_board_and_only_lines_worth_keeping(tmp_path: Path) -> None:
    display = Boards()
    observer = RunObserver(RunDirectory(tmp_path), display)
    observer.started(TRAINING, "cpu")
    observer.progress(TRAINING, EvalPoint(500, 2.5))
    assert observer.board.running["trials", 0].done_frac == 0.5
    observer.tick()
    observer.ended(TRAINING, result(loss=2.0))
    observer.ended(TRAINING, result(loss=2.1))
    observer.ended(TRAINING, result(TrialStatus.PRUNED, cause="behind"))
    observer.ended(TRAINING, result(TrialStatus.CRASHED, cause="no luck"))
    observer.close()

    assert [line.split("  [")[0] for line in display] == [
        "✓ trial 0 finished  loss 2.0000 (best so far)",
        "✗ trial 0 crashed: no luck",
    ]
    assert len(observer.board.last) == 4 and observer.board.best == (2.0, 0)
    assert display.shown == 1 and display.closed == 1


def test_a_trial_of_several_seeds_is_as_far_as_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    observer = RunObserver(RunDirectory(tmp_path), print)
    observer.board.clock = time.monotonic
    first = replace(TRAINING, seeds=4)
    observer.started(first, "cpu")
    observer.progress(first, EvalPoint(1_000, 2.0))
    training = observer.board.running["trials", 0]
    assert training.done_frac == 0.25

    clock.now += 30
    observer.progress(replace(first, seeds_done=1), EvalPoint(500, 2.5))
    assert training.done_frac == 0.375 and training.left_s(clock.now) == pytest.approx(50)
    assert observer.board.trial_seeds == 4


def test_a_cause_that_begins_with_the_status_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    observer = RunObserver(RunDirectory(tmp_path), said.append)
    for cause in ("diverged at 30 tokens: loss 9 after 2", "no more"):
        observer.ended(TRAINING, result(TrialStatus.DIVERGED, cause=cause))
    assert [line.partition("  [")[0] for line in said] == [
        "\u2197 trial 0 diverged at 30 tokens: loss 9 after 2",
        "\u2197 trial 0 diverged: no more",
    ]


def test_a_study_that_goes_on_counts_what_was_done_before(tmp_path: Path) -> None:
    observer = RunObserver(RunDirectory(tmp_path), print)
    records = [record(0, TrialStatus.FINISHED), record(1, TrialStatus.INTERRUPTED), record(2, TrialStatus.RUNNING)]
    observer.entered(TrainingKind.SEARCH, records, wanted=3)
    observer.started(replace(TRAINING, number=2), "cpu")

    assert (observer.board.done, observer.board.total) == (1, 3)
    assert observer.board.best == (2.0, 0)


def test_what_is_put_into_a_queue_beforehand_is_its_total_and_may_grow(tmp_path: Path) -> None:
    observer = RunObserver(RunDirectory(tmp_path), print)
    records = [record(0, TrialStatus.FINISHED, loss=1.0), record(1, TrialStatus.RUNNING)]
    observer.entered(TrainingKind.FINALS, records, wanted=None)
    assert (observer.board.done, observer.board.total, observer.board.best) == (1, 2, None)

    observer.entered(TrainingKind.FINALS, [*records, record(2, TrialStatus.WAITING)], wanted=None)
    assert (observer.board.done, observer.board.total) == (1, 3)
