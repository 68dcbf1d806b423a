"""The event loop on a real storage, with workers that play a script instead of training in a process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from scripted_workers import Script, ScriptedPool, training
from study_case import make_queue, make_study

from autotune.core.errors import UserError
from autotune.core.files import read_lines
from autotune.core.records import EvalPoint, TrialRecord, TrialStatus
from autotune.engine.deadline import REPORT_S, Deadline, StopRequest
from autotune.engine.equal_seconds import EqualSeconds
from autotune.engine.event_loop import EventLoop, Watch
from autotune.engine.failure_streak import FailureStreak
from autotune.engine.queue import Queue
from autotune.engine.worker import Done, Failed, Job, Message, Progress
from autotune.progress.observer import RunObserver

SOUND = training(4.0, 3.0, 2.5, 2.0)


class Left(Deadline):
    """A deadline that is as many seconds away as a test says."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @property
    def seconds_left(self) -> float:
        return self.seconds


class Case:
    """A queue, a loop and what it says, for one script."""

    def __init__(self, folder: Path, script: Script, *changes: str, slots: int = 1, **plan: Any) -> None:
        self.study = make_study(folder, *changes)
        self.queue: Queue = make_queue(folder, self.study, **plan)
        self.said: list[str] = []
        self.stop = StopRequest()
        self.deadline = Left(math.inf)
        self.pool = ScriptedPool(script, slots)
        self.loop = EventLoop(
            pool=self.pool,  # type: ignore[arg-type]
            run_directory=self.queue.run,
            limits=self.study.spec.limits,
            stop=self.stop,
            deadline=self.deadline,
            observer=RunObserver(self.queue.run, self.said.append),
            failures=FailureStreak(self.study.spec.limits.crashes),
        )

    def run(self, watch: Watch | None = None, may_start: Callable[[float], bool] = lambda seconds: True) -> None:
        self.loop.run(self.queue, may_start, watch=watch)

    @property
    def records(self) -> list[TrialRecord]:
        return self.queue.records()

    @property
    def endings(self) -> list[tuple[TrialStatus, str]]:
        return [(record.status, record.result.cause) for record in self.records if record.result is not None]


def saying(*messages: Message | None) -> Generator[Message | None, Any, None]:
    return (message for message in messages)


# --- trials that end by themselves ---


def test_a_finished_trial_is_stored_and_told(tmp_path: Path) -> None:
    case = Case(tmp_path, training(4.0, 3.0, 2.5, 2.0, facts={"data_hash": "x"}, tokens_per_s=100.0), target=1)
    case.run()

    [record] = case.records
    assert record.status is TrialStatus.FINISHED and record.loss == 2.0
    assert record.result is not None
    assert [point.tokens_seen for point in record.result.points] == [250, 500, 750, 1_000]
    assert (record.result.facts, record.result.device) == ({"data_hash": "x"}, "slot 0")
    assert (record.result.log, record.result.config["lr"]) == ("trials/0000/log.txt", record.params["lr"])

    [trial] = case.queue.optuna_study.trials
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 2.0)
    assert trial.intermediate_values == {250: 4.0, 500: 3.0, 750: 2.5, 1_000: 2.0}

    folder = case.queue.run.trial("trials", 0)
    assert [line["val_loss"] for line in read_lines(folder / "metrics.jsonl")] == [4.0, 3.0, 2.5, 2.0]
    assert case.pool.answers == [True] * 4 and not case.pool.busy
    assert case.loop.pace.seconds(1_000) == pytest.approx(record.result.seconds)
    assert case.said == [line for line in case.said if line.startswith("✓ trial 0 finished  loss 2.0000 (best so far)")]


def test_the_queue_is_worked_at_until_its_target_on_a_warm_worker(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)
    case.run()
    assert [record.status for record in case.records] == [TrialStatus.FINISHED] * 3
    assert len(case.pool.workers) == 1 and len(case.pool.jobs) == 3


def test_two_slots_train_at_once(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND, slots=2)
    case.run()
    assert case.pool.most_busy == 2
    assert {record.result.device for record in case.records if record.result} == {"slot 0", "slot 1"}
    assert [record.status for record in case.records] == [TrialStatus.FINISHED] * 3


def test_nothing_starts_without_time(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)
    case.loop.pace.expect(1_000, 60.0)
    asked: list[float] = []

    def may_start(seconds: float) -> bool:
        asked.append(seconds)
        return False

    case.run(may_start=may_start)
    assert case.records == [] and set(asked) == {60.0}


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (training(), "the trainer returned without reporting an evaluation"),
        (
            lambda job: saying(Progress(EvalPoint(500, 3.0)), Done({})),
            "the trainer returned at 500 of 1,000 tokens without being asked to stop",
        ),
    ],
)
def test_a_trainer_that_returns_early_has_crashed(tmp_path: Path, script: Script, cause: str) -> None:
    case = Case(tmp_path, script, target=1)
    case.run()
    assert case.endings == [(TrialStatus.CRASHED, cause)]
    assert case.queue.optuna_study.trials[0].state is TrialState.FAIL


# --- trials that are stopped ---


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
        ((3.0, 6.1, 2.0), "diverged at 667 tokens: loss 6.1 after 3"),
    ],
)
def test_a_diverged_trial_is_told_so_that_it_teaches(tmp_path: Path, losses: tuple[float, ...], cause: str) -> None:
    case = Case(tmp_path, training(*losses), target=1)
    case.run()
    assert case.endings == [(TrialStatus.DIVERGED, cause)]
    assert case.pool.answers == [True, False]
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


# --- faults ---


def test_a_worker_that_dies_is_replaced_and_its_trial_trained_again(tmp_path: Path) -> None:
    deaths = iter([True, False])

    def script(job: Job) -> Generator[Message | None, Any, None]:
        if next(deaths):
            yield Progress(EvalPoint(250, 4.0))
            yield None
        else:
            yield from SOUND(job)

    case = Case(tmp_path, script, target=1)
    case.run()
    assert case.endings == [(TrialStatus.INTERRUPTED, "its worker was killed by SIGKILL"), (TrialStatus.FINISHED, "")]
    died, repeated = case.records
    assert died.result is not None and died.result.worker_died
    assert (repeated.params, repeated.retry_of) == (died.params, 0)
    assert [len(worker.jobs) for worker in case.pool.workers] == [1, 1]


@pytest.mark.parametrize(
    ("out_of_memory", "status", "state"),
    [(False, TrialStatus.CRASHED, TrialState.FAIL), (True, TrialStatus.OUT_OF_MEMORY, TrialState.PRUNED)],
)
def test_a_trainer_that_raises_is_not_tried_again(
    tmp_path: Path, out_of_memory: bool, status: TrialStatus, state: TrialState
) -> None:
    case = Case(tmp_path, lambda job: saying(Failed(out_of_memory, "Error: planned")), target=1)
    case.run()
    assert case.endings == [(status, "Error: planned")]
    assert case.queue.optuna_study.trials[0].state is state
    assert len(case.pool.workers) == 2, "its device state is not to be trusted"
    assert case.loop.pace.seconds(1_000) == 0.0


def test_different_settings_that_fail_in_a_row_end_the_run(tmp_path: Path) -> None:
    case = Case(tmp_path, lambda job: saying(Failed(False, "Error: planned")), "limits.crashes=2")
    with pytest.raises(
        UserError, match=r"2 different settings in a row failed; the last: Error: planned; see .*0001/log.txt"
    ):
        case.run()
    assert len(case.endings) == 2


def test_a_sound_training_in_between_ends_the_row(tmp_path: Path) -> None:
    scripts = iter([lambda job: saying(Failed(False, "Error: planned")), SOUND] * 2)
    case = Case(tmp_path, lambda job: next(scripts)(job), "limits.crashes=2", target=4)
    case.run()
    statuses = [status for status, _ in case.endings]
    assert statuses == [TrialStatus.CRASHED, TrialStatus.FINISHED] * 2


def test_a_trial_that_a_peer_has_ended_is_left_to_it(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND, target=1)

    def script(job: Job) -> Generator[Message | None, Any, None]:
        yield Progress(EvalPoint(250, 4.0))
        case.queue.optuna_study.tell(0, state=TrialState.FAIL)
        case.stop.raise_level()  # or its settings would be drawn again
        yield Progress(EvalPoint(500, 3.0))
        yield Done({})

    case.pool.play(script)
    case.run()
    assert case.pool.answers == [True, False]
    events = [event["message"] for event in read_lines(case.queue.run.events) if event["kind"] == "taken over"]
    assert events == ["another process ended trial 0 in the meantime"]
    assert any("taken over at 500 tokens by another process" in line for line in case.said)


# --- seeds, probes, and an end that is asked for ---


def by_seed(job: Job) -> Generator[Message | None, Any, None]:
    """The final loss is the seed."""
    yield from training(5.0, float(job.config["seed"]))(job)


def test_several_seeds_are_one_trial_with_the_mean_of_their_curves(tmp_path: Path) -> None:
    case = Case(tmp_path, by_seed, "budget.seeds=3", 'pruner={name="none"}', "seed=7", target=1)
    case.run()
    assert [job.config["seed"] for job in case.pool.jobs] == [7, 8, 9]
    [record] = case.records
    assert record.loss == 8.0 and record.seed_losses == (7.0, 8.0, 9.0)
    assert record.result is not None and [point.val_loss for point in record.result.points] == [5.0, 8.0]
    assert case.queue.optuna_study.trials[0].intermediate_values == {1: 7.0, 2: 8.0, 3: 9.0}


def test_the_board_shows_how_much_of_all_seeds_is_done(tmp_path: Path) -> None:
    shares: list[float] = []

    def script(job: Job) -> Generator[Message | None, Any, None]:
        for tokens in (500, 1_000):
            yield Progress(EvalPoint(tokens, 3.0))
            shares.extend(training.done_frac for training in case.loop.observer.board.running.values())
        yield Done({})

    case = Case(tmp_path, script, "budget.seeds=2", 'pruner={name="none"}', target=1)
    case.run()
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_a_pruner_decides_between_seeds(tmp_path: Path) -> None:
    case = Case(tmp_path, by_seed, "budget.seeds=3", 'pruner={name="wilcoxon", audit_frac=0.0}', target=1)
    case.queue.optuna_study.pruner = optuna.pruners.ThresholdPruner(upper=1.5)
    case.run()
    assert [job.config["seed"] for job in case.pool.jobs] == [1, 2]
    assert case.endings == [(TrialStatus.PRUNED, "behind the best trial after 2 of 3 seeds (loss 2.0000)")]
    assert case.pool.answers == [True] * 4, "no seed is stopped in its middle"


def test_a_probe_comes_first_and_gives_the_training_its_budget(tmp_path: Path) -> None:
    def script(job: Job) -> Generator[Message | None, Any, None]:
        yield from training(4.0, 3.0, tokens_per_s=25.0)(job)

    case = Case(tmp_path, script, target=1)
    store = case.queue.store
    half_as_fast = EqualSeconds(case.study, store.optuna_study, store.storage, {}, None, 50.0, (40, 1))
    case.queue = replace(case.queue, plan=replace(case.queue.plan, equal_seconds=half_as_fast))
    case.run()

    assert [job.budget_tokens for job in case.pool.jobs] == [40, 500]
    assert case.pool.answers == [False, True, True], "the probe ends after one evaluation"
    [record] = case.records
    assert (record.status, record.budget_tokens, record.values) == (TrialStatus.FINISHED, 500, {250: 4.0, 500: 3.0})
    assert case.queue.optuna_study.trials[0].intermediate_values == {500: 4.0, 1_000: 3.0}


def test_a_stop_in_a_probe_ends_the_trial(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND, target=1)
    store = case.queue.store
    unknown = EqualSeconds(case.study, store.optuna_study, store.storage, {}, None, 50.0, (40, 0))
    case.queue = replace(case.queue, plan=replace(case.queue.plan, equal_seconds=unknown))

    def script(job: Job) -> Generator[Message | None, Any, None]:
        case.stop.raise_level()
        yield Progress(EvalPoint(10, 4.0))
        yield Done({})

    case.pool.play(script)
    case.run()
    assert case.endings == [(TrialStatus.INTERRUPTED, "stopped in its probe by the user")]


def test_a_watch_moves_the_end_of_a_training(tmp_path: Path) -> None:
    def obeying(job: Job) -> Generator[Message | None, Any, None]:
        first = yield Progress(EvalPoint(250, 4.0))
        second = yield Progress(EvalPoint(500, 3.0))
        assert (first, second) == (True, 600)
        third = yield Progress(EvalPoint(600, 2.8))
        assert third is True, "at the end there is nothing more to ask for"
        yield Done({})

    seen: list[int] = []

    def watch(assignment: Any, points: Any) -> int | None:
        seen.append(len(points))
        return None if len(points) == 1 else 600

    case = Case(tmp_path, obeying, target=1)
    case.run(watch=watch)
    assert seen == [1, 2, 3]
    assert case.endings == [(TrialStatus.FINISHED, "")]
    assert case.records[0].loss == 2.8
