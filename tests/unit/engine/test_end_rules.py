"""Trainings that are stopped before their budget, in the event loop on a real storage with scripted workers."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from loop_case import SOUND, Case, saying
from optuna.trial import TrialState
from scripted_workers import ScriptedPool, training

from autotune.core.records import EvalPoint, TrialStatus
from autotune.engine.deadline import REPORT_S
from autotune.engine.trial_store import TrialStore
from autotune.engine.worker import Done, Failed, Job, Message, Progress


def test_a_pruned_trial_is_answered_and_told_with_its_last_loss(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND, "pruner.audit_frac=0.0", target=1)
    case.queue.optuna_study.pruner = optuna.pruners.ThresholdPruner(upper=2.9, n_warmup_steps=400)
    case.run()

    assert case.pool.answers == [True, False]
    assert case.endings == [(TrialStatus.PRUNED, "behind the other trials at 500 tokens (loss 3.0000)")]
    [trial] = case.queue.optuna_study.trials
    assert (trial.state, trial.value, trial.user_attrs["stopped_at"]) == (TrialState.PRUNED, 3.0, 500)
    assert not case.pool.busy and len(case.pool.workers) == 1, "its worker stays warm"


@pytest.mark.parametrize(
    ("losses", "cause"),
    [
        ((3.0, math.nan, 2.0), "diverged at 667 tokens: the loss is nan (learning rate too high?)"),
        ((3.0, 6.1, 2.0), "diverged at 667 tokens: loss 6.1000 after 3.0000 at first"),
    ],
)
def test_a_diverged_trial_is_told_so_that_it_teaches(tmp_path: Path, losses: tuple[float, ...], cause: str) -> None:
    case = Case(tmp_path, training(*losses), target=1)
    case.run()
    assert case.endings == [(TrialStatus.DIVERGED, cause)]
    assert case.pool.answers == [True, False]
    assert case.queue.optuna_study.trials[0].state is TrialState.PRUNED


def test_an_error_that_doubles_after_it_fell_far_has_not_diverged(tmp_path: Path) -> None:
    case = Case(tmp_path, training(1.0, 0.000112, 0.000266), target=1)
    case.run()
    assert case.endings == [(TrialStatus.FINISHED, "")]


def test_a_trainer_may_say_itself_that_it_diverged(tmp_path: Path) -> None:
    case = Case(
        tmp_path, lambda job: saying(Failed(False, "FloatingPointError: the loss rose", diverged=True)), target=1
    )
    case.run()
    assert case.endings == [(TrialStatus.DIVERGED, "diverged: the loss rose")]
    assert case.queue.optuna_study.trials[0].state is TrialState.PRUNED


def test_losses_below_zero_do_not_diverge_by_a_factor(tmp_path: Path) -> None:
    case = Case(tmp_path, training(-1.0, -3.0, -1.5), target=1)
    case.run()
    assert case.endings == [(TrialStatus.FINISHED, "")]


@pytest.mark.parametrize(
    ("seconds_left", "cause"),
    [(REPORT_S - 1, "stopped at 500 tokens: the time was up"), (REPORT_S / 2 - 1, "stopped: the time was up")],
)
def test_the_deadline_stops_after_the_next_evaluation_and_then_at_once(
    tmp_path: Path, seconds_left: float, cause: str
) -> None:
    case = Case(tmp_path, SOUND, target=1)

    def script(job: Job) -> Generator[Message | None, Any, None]:
        yield Progress(EvalPoint(250, 4.0))
        case.deadline.seconds = seconds_left
        if seconds_left > REPORT_S / 2:
            yield Progress(EvalPoint(500, 3.0))
            yield Done({})

    case.pool.play(script)
    case.run(may_start=lambda seconds: case.deadline.seconds == math.inf)
    assert case.endings == [(TrialStatus.INTERRUPTED, cause)]
    assert case.records[-1].status is TrialStatus.WAITING


def test_the_last_evaluation_ends_a_trial_whatever_the_time(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND, target=1)

    def script(job: Job) -> Generator[Message | None, Any, None]:
        case.stop.raise_level()
        yield Progress(EvalPoint(1_000, 2.0))
        yield Done({})

    case.pool.play(script)
    case.run()
    assert case.endings == [(TrialStatus.FINISHED, "")]


def test_a_first_stop_parks_after_the_next_evaluation(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)

    def script(job: Job) -> Generator[Message | None, Any, None]:
        case.stop.raise_level()
        answer = yield Progress(EvalPoint(250, 4.0))
        assert answer is False
        yield Done({})

    case.pool.play(script)
    case.run()
    assert case.endings == [(TrialStatus.INTERRUPTED, "stopped at 250 tokens by the user")]
    stopped, queued = case.records
    assert (queued.status, queued.params, queued.retry_of) == (TrialStatus.WAITING, stopped.params, 0)
    assert not case.pool.busy and len(case.pool.workers) == 1


def test_a_second_stop_does_not_wait_for_an_evaluation(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)

    def script(job: Job) -> Generator[Message | None, Any, None]:
        yield Progress(EvalPoint(250, 4.0))
        case.stop.raise_level()
        case.stop.raise_level()

    case.pool.play(script)
    case.run()
    assert case.endings == [(TrialStatus.INTERRUPTED, "stopped at once by the user")]
    assert len(case.pool.workers) == 2, "its worker was killed"


def test_one_that_was_told_to_stop_keeps_its_ending_however_it_stops(tmp_path: Path) -> None:
    def clumsy(job: Job) -> Generator[Message | None, Any, None]:
        yield Progress(EvalPoint(250, math.inf))
        yield Failed(False, "RuntimeError: while stopping")

    case = Case(tmp_path, clumsy, target=1)
    case.run()
    [(status, cause)] = case.endings
    assert status is TrialStatus.DIVERGED and cause.startswith("diverged at 250 tokens")


def test_a_training_whose_evaluation_waits_for_the_database_is_not_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, store = time.monotonic(), TrialStore.report
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def report(*arguments: Any) -> bool:
        nonlocal now
        now += 600
        return store(*arguments)

    monkeypatch.setattr(TrialStore, "report", report)
    case = Case(tmp_path, SOUND, "limits.hang_s=10", target=1)
    case.run()
    assert [status for status, _ in case.endings] == [TrialStatus.FINISHED]


def test_a_silent_trainer_is_ended_sooner_after_its_first_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    def silent_from(points: int) -> float:
        case = Case(tmp_path / str(points), SOUND, "limits.hang_s=10", target=1)
        case.pool = ScriptedPool(lambda job: saying(*[Progress(EvalPoint(250, 4.0))] * points), on_wait=wait)
        began = now
        replace(case.loop, pool=case.pool).run(case.queue, lambda seconds: True)  # type: ignore[arg-type]
        [(status, cause)] = case.endings
        assert status is TrialStatus.CRASHED and cause.startswith("no progress for ")
        return now - began

    for points in (0, 1):
        (tmp_path / str(points)).mkdir()
    assert silent_from(points=1) == pytest.approx(10, abs=1)
    assert silent_from(points=0) == pytest.approx(30, abs=1)
