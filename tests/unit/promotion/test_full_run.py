"""What the engine makes of a full run's evaluations: how many, what is said, what is kept and what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study_case import make_queue, make_study, result

from autotune.core.attributes import TrialAttributes
from autotune.core.files import read_lines
from autotune.core.records import EvalPoint, TrainingKind, TrialResult, TrialStatus
from autotune.engine.assignment import Assignment
from autotune.engine.deadline import Deadline, StopRequest
from autotune.engine.queue import Queue
from autotune.progress.observer import RunObserver
from autotune.promotion.full_run import FullRun, evaluations

TOKENS = 8_000


@pytest.mark.parametrize(
    ("num_evals", "tokens", "changes", "expected"),
    [
        (10, 8_000, (), 80),
        (10, 80_000, (), 100),
        (10, 1_500, (), 15),
        (10, 500, (), 10),
        (200, 8_000, (), 200),  # what the study file asks of a trial is not made coarser
        (10, 8_000, ("promote.num_evals=33",), 33),
    ],
)
def test_a_full_run_is_evaluated_as_densely_as_a_trial(
    tmp_path: Path, num_evals: int, tokens: int, changes: tuple[str, ...], expected: int
) -> None:
    study = make_study(tmp_path, f"base.data.num_evals={num_evals}", *changes)
    assert evaluations(study, tokens) == {"data.num_evals": expected}


def test_a_trainer_that_decides_itself_is_left_to_it(tmp_path: Path) -> None:
    study = make_study(tmp_path, "base.data.num_evals=0")
    assert evaluations(study, TOKENS) == {}
    del study.spec.base["data"]
    assert evaluations(study, TOKENS) == {}


class Far(Deadline):
    """A deadline far beyond any test."""

    @property
    def seconds_left(self) -> float:
        return 1e6


Opened = tuple[FullRun, Queue, list[str], list[dict[str, Any]]]


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], Opened]:
    """Opens a full run of 8,000 tokens as a new process would: with what it says and what it keeps."""

    def open_run() -> Opened:
        queue = make_queue(tmp_path, make_study(tmp_path), kind=TrainingKind.FULL, budget_tokens=TOKENS, target=None)
        queue.enqueue({"lr": 0.01}, role="full", arm=3, seed=1)
        said: list[str] = []
        kept: list[dict[str, Any]] = []
        observer = RunObserver(queue.run, said.append)
        run = FullRun(queue, {"lr": 0.01}, tmp_path / "full", Far(), observer, sigma=0.01, keep=kept.append)
        return run, queue, said, kept

    return open_run


def evaluate(run: FullRun, queue: Queue, assignment: Assignment, losses: list[float], **metrics: float) -> int | None:
    points: list[EvalPoint] = []
    answer = None
    for place, loss in enumerate(losses):
        points.append(EvalPoint(1_000 * (place + 1), loss, metrics))
        queue.report(assignment, points[-1])
        answer = run.evaluated(assignment, list(points))
    return answer


def take(queue: Queue) -> Assignment:
    assignment = queue.take()
    assert assignment is not None
    return assignment


def test_a_running_full_run_is_kept_for_the_report(opened: Callable[[], Opened]) -> None:
    run, queue, said, kept = opened()
    assert evaluate(run, queue, take(queue), [4.0, 3.5, 3.25], val_accuracy=0.3) is None
    last = kept[-1]
    assert (last.status, last.trial, last.tokens, last.tokens_seen) == ("running", 3, TOKENS, 3_000)
    assert (last.val_loss, last.val_accuracy, last.warnings, last.end_tokens) == (3.25, 0.3, (), None)
    assert [point.tokens_seen for point in last.points] == [1_000, 2_000, 3_000]
    assert last.tokens_per_s > 0 and last.done_at > last.at
    assert said[0] == "full run   12%  loss 4.0000"
    assert said[1].startswith("full run   25%  loss 3.5000  ") and "tokens/s  done about " in said[1]


def test_a_warning_is_said_once_also_by_the_next_attempt(opened: Callable[[], Opened]) -> None:
    run, queue, said, kept = opened()
    assignment = take(queue)
    evaluate(run, queue, assignment, [3.0, 3.2, 3.3, 3.4])
    warned = [line for line in said if line.startswith("warning at 3,000 tokens: loss 3.3000 is clearly worse")]
    assert len(warned) == 1
    assert [event["message"] for event in read_lines(queue.run.events) if event["kind"] == "warning"] == warned
    assert [warning.kind for warning in kept[-1].warnings] == ["divergence"]

    queue.tell(assignment.trial, result(TrialStatus.CRASHED), assignment.folder)
    queue.try_again(assignment.trial.number)
    queue.try_again(assignment.trial.number)  # once is enough
    again, queue, said, kept = opened()
    evaluate(again, queue, take(queue), [3.0, 3.2, 3.3, 3.4, 3.5])
    assert [line[:16] for line in said] == ["full run   62%  "]  # what was said of the first attempt is not said again
    assert not [line for line in said if line.startswith("warning")]
    assert [warning.tokens_seen for warning in kept[-1].warnings] == [3_000]
    assert queue.take() is None


def test_the_end_is_decided_for_the_run_and_told_to_every_attempt(opened: Callable[[], Opened]) -> None:
    run, queue, said, kept = opened()
    assignment = take(queue)
    TrialAttributes(assignment.trial).end_tokens = 4_000
    assert evaluate(run, queue, assignment, [4.0, 3.5]) == 4_000
    assert kept[-1].end_tokens == 4_000
    assert said[-1].startswith("full run   50%  loss 3.5000")
    queue.tell(assignment.trial, result(TrialStatus.INTERRUPTED), assignment.folder)
    again, queue, said, _ = opened()
    assert evaluate(again, queue, take(queue), [4.0]) == 4_000


def test_the_board_shows_the_end_that_the_run_is_brought_to(opened: Callable[[], Opened]) -> None:
    run, queue, _, _ = opened()
    assignment = take(queue)
    TrialAttributes(assignment.trial).end_tokens = 4_000
    board = run.observer.board
    board.start(TrainingKind.FULL, assignment.trial.number)
    training = board.running[TrainingKind.FULL, assignment.trial.number]

    points = [EvalPoint(1_000, 4.0)]
    run.evaluated(assignment, points)
    assert (training.done_frac, training.left_s(board.clock())) == (0.25, None), "one evaluation gives no pace"
    run.evaluated(assignment, [*points, EvalPoint(3_000, 3.5)])
    assert training.done_frac == 0.75 and training.ends_at is not None


class NothingTrains:
    """A loop that finds no time for anything."""

    def __init__(self) -> None:
        self.stop = StopRequest()
        self.stop.raise_level()

    def run(self, queue: Queue, may_start: object, watch: object, before: object) -> None:
        """Trains nothing."""


def test_a_parked_run_is_as_far_as_its_attempts_got(opened: Callable[[], Opened]) -> None:
    """What waits to go on at 90 % is not at its beginning, though its own attempt has not been evaluated."""
    run, queue, _, kept = opened()
    assignment = take(queue)
    evaluate(run, queue, assignment, [4.0, 3.5, 3.4, 3.3, 3.2, 3.1, 3.05])
    points = kept[-1].points
    ended = TrialResult(TrialStatus.INTERRUPTED, "stopped at 7,000 tokens by the user", points)
    queue.tell(assignment.trial, ended, assignment.folder)

    again, queue, _, kept = opened()
    assert again.train(NothingTrains()) is TrialStatus.WAITING
    shown = kept[-1]
    assert (shown.status, shown.tokens_seen, shown.val_loss) == ("waiting", 7_000, 3.05)
    assert shown.points == points


def test_a_run_that_diverged_says_what_helps(opened: Callable[[], Opened]) -> None:
    _, queue, _, _ = opened()
    assignment = take(queue)
    ended = TrialResult(TrialStatus.DIVERGED, "diverged at 1,000 tokens", (EvalPoint(1_000, 4.0),))
    queue.tell(assignment.trial, ended, assignment.folder)
    again, queue, said, _ = opened()
    assert again.train(NothingTrains()) is TrialStatus.DIVERGED
    assert "train another trial (--trial), or a copy of " in said[-1]


def test_lines_are_few_however_many_evaluations(opened: Callable[[], Opened]) -> None:
    run, queue, said, _ = opened()
    assignment, points = take(queue), []
    for number in range(1, 101):
        points.append(EvalPoint(80 * number, 3.0 - number / 1_000))
        run.evaluated(assignment, points)
    assert len([line for line in said if line.startswith("full run")]) == 20
    assert said[-1].startswith("full run  100%")
