"""The values that pass between the rooms: round trips and what they refuse."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus, Verdict, VerdictWord


def test_a_report_becomes_a_point() -> None:
    point = EvalPoint.from_report({"tokens_seen": 100.0, "val_loss": 2.5, "val_accuracy": 1})
    assert point == EvalPoint(100, 2.5, {"val_accuracy": 1.0})
    assert isinstance(point.tokens_seen, int)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"tokens_seen": 1}, "the trainer reported no val_loss; report(...) needs both"),
        ({"val_loss": 1}, "the trainer reported no tokens_seen; report(...) needs both"),
        ({"loss": 1}, "the trainer reported no tokens_seen and no val_loss; report(...) needs both"),
        ({"tokens_seen": -1, "val_loss": 1}, "the trainer reported tokens_seen = -1; it must be a count, 0 or more"),
        (
            {"tokens_seen": math.nan, "val_loss": 1},
            "the trainer reported tokens_seen = nan; it must be a count, 0 or more",
        ),
        (
            {"tokens_seen": math.inf, "val_loss": 1},
            "the trainer reported tokens_seen = inf; it must be a count, 0 or more",
        ),
    ],
)
def test_an_incomplete_report_is_refused(report: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared below
        EvalPoint.from_report(report)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_does_not_know_becomes_null_and_then_nan(value: float) -> None:
    written = EvalPoint(5, value, {"grad_norm": value, "mfu": 0.5}).to_json()
    assert written == {"tokens_seen": 5, "val_loss": None, "grad_norm": None, "mfu": 0.5}
    json.dumps(written, allow_nan=False)
    read = EvalPoint.from_json(written)
    assert math.isnan(read.val_loss)
    assert math.isnan(read.metrics["grad_norm"])
    assert (read.tokens_seen, read.metrics["mfu"]) == (5, 0.5)


def full_result(**changes: Any) -> TrialResult:
    result = TrialResult(
        status=TrialStatus.PRUNED,
        cause="behind the others",
        points=(EvalPoint(10, 3.0, {"a": 1.0}), EvalPoint(20, 2.5)),
        facts={"data_hash": "abc", "sizes": [1, 2]},
        started_at="2026-01-02T03:04:05+00:00",
        seconds=12.5,
        config={"optim": {"lr": 0.1}},
        log="trials/0007/log.txt",
        host="night",
        device="cuda:0",
        worker_died=True,
    )
    return replace(result, **changes)


@pytest.mark.parametrize("status", list(TrialStatus))
def test_a_result_survives_json(status: TrialStatus) -> None:
    result = full_result(status=status)
    assert TrialResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_last_finite_skips_what_diverged() -> None:
    points = (EvalPoint(10, 3.0), EvalPoint(20, 2.0), EvalPoint(30, math.nan), EvalPoint(40, math.inf))
    assert full_result(points=points).last_finite == EvalPoint(20, 2.0)
    assert full_result(points=points[2:]).last_finite is None
    assert full_result(points=()).last_finite is None


@pytest.mark.parametrize("word", list(VerdictWord))
def test_a_verdict_survives_json(word: VerdictWord) -> None:
    verdict = Verdict(word, "because", 7, {"lr": 0.1}, (1001, 1002), 3.0, 2.9, 0.1, 0.05, 0.15, 0.01, 0.015, {"a": 1.0})
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_which_ends_teach_the_sampler() -> None:
    taught = {status for status in TrialStatus if status.teaches}
    ended = {TrialStatus.FINISHED, TrialStatus.PRUNED, TrialStatus.STOPPED}
    assert taught == ended | {TrialStatus.DIVERGED, TrialStatus.OUT_OF_MEMORY}


def test_only_a_finished_trial_has_a_loss() -> None:
    finished = full_result(status=TrialStatus.FINISHED)
    assert TrialRecord(0, {}, TrialStatus.FINISHED, finished).loss == 2.5
    assert TrialRecord(0, {}, TrialStatus.PRUNED, full_result()).loss is None
    assert TrialRecord(0, {}, TrialStatus.RUNNING).loss is None
    assert TrialRecord(0, {}, TrialStatus.FINISHED, replace(finished, points=())).loss is None


def test_an_interruption_from_outside_is_excused() -> None:
    def record(status: TrialStatus, died: bool) -> TrialRecord:
        return TrialRecord(0, {}, status, full_result(status=status, worker_died=died))

    assert record(TrialStatus.INTERRUPTED, died=False).excused
    assert not record(TrialStatus.INTERRUPTED, died=True).excused
    assert not record(TrialStatus.CRASHED, died=False).excused
    assert TrialRecord(0, {}, TrialStatus.INTERRUPTED).excused
