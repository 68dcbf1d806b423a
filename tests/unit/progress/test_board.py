"""How far a study is: counts, paces and words, on a clock that the test winds."""

from __future__ import annotations

import re

import pytest

from autotune.core.records import TrainingKind
from autotune.machine.gpu_monitor import GpuSample
from autotune.progress.board import Board


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Board:
    made = Board(clock=clock)
    made.enter(TrainingKind.SEARCH, 3, 10)
    return made


def test_the_time_left_is_this_sessions_pace_times_what_is_left(board: Board, clock: Clock) -> None:
    assert board.left_s() is None
    for number in (3, 4):
        board.start(TrainingKind.SEARCH, number)
        clock.now += 20
        board.end(TrainingKind.SEARCH, number, f"trial {number}", counts=True)

    assert (board.done, board.total) == (5, 10)
    assert board.left_s() == pytest.approx(5 * 20)
    assert re.fullmatch(r"searching: 5 of 10, until about \d\d:\d\d", board.headline())


def test_an_interrupted_training_is_not_done(board: Board, clock: Clock) -> None:
    board.start(TrainingKind.SEARCH, 3)
    clock.now += 20
    board.end(TrainingKind.SEARCH, 3, "… trial 3 interrupted", counts=False)

    assert board.done == 3 and board.left_s() is None
    assert board.headline() == "searching: 3 of 10"


def test_a_training_says_how_long_it_still_takes(board: Board, clock: Clock) -> None:
    board.start(TrainingKind.SEARCH, 3)
    training = board.running[TrainingKind.SEARCH, 3]
    assert training.left_s(clock()) is None

    clock.now += 30
    board.progress(TrainingKind.SEARCH, 3, 0.25, 4.5, None)
    assert training.done_frac == 0.25
    assert training.left_s(clock()) == pytest.approx(90)


def test_an_end_that_is_foreseen_counts_more_than_the_mean_pace(board: Board, clock: Clock) -> None:
    """A run that goes on from a checkpoint reports at once what it did before; its watch does not count that."""
    board.start(TrainingKind.SEARCH, 3)
    training = board.running[TrainingKind.SEARCH, 3]
    clock.now += 1
    board.progress(TrainingKind.SEARCH, 3, 0.9, 4.5, None)
    board.foresee(TrainingKind.SEARCH, 3, 0.95, None)
    assert training.done_frac == 0.95 and training.left_s(clock()) is None

    board.foresee(TrainingKind.SEARCH, 3, 0.96, 600.0)
    clock.now += 60
    assert training.left_s(clock()) == pytest.approx(540)
    board.foresee(TrainingKind.SEARCH, 4, 0.5, 600.0)
    assert len(board.running) == 1


def test_another_queue_begins_anew_and_one_of_fixed_trials_may_grow(board: Board, clock: Clock) -> None:
    board.start(TrainingKind.SEARCH, 3)
    clock.now += 20
    board.end(TrainingKind.SEARCH, 3, "", counts=True)
    board.enter(TrainingKind.FINALS, 0, 6)
    assert (board.done, board.total, board.left_s()) == (0, 6, None)

    board.start(TrainingKind.FINALS, 0)
    board.end(TrainingKind.FINALS, 0, "", counts=True)
    board.enter(TrainingKind.FINALS, 0, 9)
    assert (board.done, board.total) == (1, 9)


def test_only_the_last_five_are_kept(board: Board) -> None:
    for number in range(8):
        board.end(TrainingKind.SEARCH, number, f"line {number}", counts=True)
    assert list(board.last) == [f"line {number}" for number in range(3, 8)]


def test_the_full_run_is_done_when_its_training_is(clock: Clock) -> None:
    board = Board(clock=clock)
    board.enter(TrainingKind.FULL, 0, 1)
    board.start(TrainingKind.FULL, 0)
    clock.now += 60
    board.progress(TrainingKind.FULL, 0, 0.5, 4.0, 1_250_000.0)

    assert board.left_s() == pytest.approx(60)
    assert board.headline().startswith("full run, until about ")


def test_the_best_of_several_seeds_is_their_mean(board: Board) -> None:
    board.best = (4.25, 2)
    board.trial_seeds = 3
    assert board.best_words() == "best so far: loss 4.2500 (trial 2, mean of 3 seeds)"


def test_one_line_says_everything_that_is_known(board: Board, clock: Clock) -> None:
    assert board.line() == ""
    board.start(TrainingKind.SEARCH, 3)
    assert board.line() == "… searching: 3 of 10; trial 3 at 0%"

    board.progress(TrainingKind.SEARCH, 3, 0.5, 4.5, 1234.5)
    board.best = (4.25, 2)
    board.gpu = GpuSample(0.0, 61.0, 250.0, None, None, 0.97, 3 * 2**30, None, ())
    assert board.line() == (
        "… searching: 3 of 10; trial 3 at 50%; best so far: loss 4.2500 (trial 2, one seed); "
        "GPU: 61 °C, 250 W, 97 % busy, 3.0 GiB used, 1,234 tokens/s"
    )
