"""Values, shares and fronts by hand."""

from __future__ import annotations

import pytest

from autotune.core.objectives import candidates, comparable_tokens, pareto_front, values
from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus
from autotune.study.spec import StudySpec


def trial(number: int, loss: float, seconds: float, status: TrialStatus = TrialStatus.FINISHED) -> TrialRecord:
    result = TrialResult(status, points=(EvalPoint(100, loss, {"tokens_per_s": 100 / seconds}),), seconds=999.0)
    return TrialRecord(number, {}, status, result)


def test_training_seconds_leave_out_evaluations_and_set_up() -> None:
    points = tuple(
        EvalPoint(tokens, 3.0, {"tokens_per_s": speed, "eval_s": 2.0}) for tokens, speed in ((100, 50.0), (400, 100.0))
    )
    assert TrialResult(TrialStatus.FINISHED, points=points, seconds=60.0).training_s == 100 / 50 + 300 / 100
    silent = tuple(EvalPoint(point.tokens_seen, 3.0, {"eval_s": 2.0}) for point in points)
    assert TrialResult(TrialStatus.FINISHED, points=silent, seconds=60.0).training_s == 60 - 2 * 2
    assert values(TrialResult(TrialStatus.FINISHED, points=points), 1) == [3.0]
    assert values(TrialResult(TrialStatus.FINISHED, points=points), 2) == [3.0, 5.0]


@pytest.mark.parametrize(
    ("seen", "budget", "expected"),
    [
        (500, 500, 1_000),
        (250, 500, 500),
        # A third of 500 tokens in thirds: the trainer stops at 55, which is 0.331 of the 166.
        (55, 166, 333),
        (110, 166, 666),
        (166, 166, 1_000),
        # 3,000 tokens in sevenths.
        (428, 3_000, 142),
        (857, 3_000, 285),
    ],
)
def test_shares_of_a_budget_meet_the_baselines_grid(seen: int, budget: int, expected: int) -> None:
    assert comparable_tokens(seen, budget, 1_000) == expected


def test_the_front_is_what_nothing_beats_in_both_best_first() -> None:
    trials = [
        trial(0, 5.0, 10),
        trial(1, 4.5, 20),
        trial(2, 4.6, 20),
        trial(3, 4.5, 30),
        trial(4, 5.5, 10),
        trial(5, 6.0, 5),
        trial(6, 1.0, 1, TrialStatus.PRUNED),
        TrialRecord(7, {}, TrialStatus.RUNNING),
    ]
    assert [each.number for each in pareto_front(trials)] == [1, 0, 5]
    assert candidates("loss_at_equal_tokens", trials) is trials
    assert list(candidates("loss_and_seconds", trials)) == pareto_front(trials)


def test_the_earlier_name_is_the_same_study() -> None:
    content = {"name": "night", "budget": {"tokens": 1}, "space": {"lr": {"low": 0.1, "high": 1.0}}}
    plain, earlier, seconds = (
        StudySpec.model_validate({**content, **more})
        for more in ({}, {"objective": "val_loss"}, {"objective": "loss_at_equal_seconds"})
    )
    assert earlier == plain
    assert earlier.fingerprint() == plain.fingerprint() != seconds.fingerprint()
