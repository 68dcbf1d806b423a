"""The event loop on a real storage, with workers that play a script instead of training in a process."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from loop_case import SOUND, Case, saying
from optuna.trial import TrialState
from scripted_workers import Script, training

from autotune.core.errors import UserError
from autotune.core.files import read_lines
from autotune.core.records import EvalPoint, TrainingKind, TrialStatus
from autotune.engine.equal_seconds import EqualSeconds
from autotune.engine.event_loop import EventLoop
from autotune.engine.session_end import SessionEnd
from autotune.engine.worker import Done, Failed, Job, Message, Progress

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


def test_seeds_that_are_evaluated_at_other_places_share_those_that_all_have(tmp_path: Path) -> None:
    """As a trainer's that evaluates now and then by the clock: the last evaluation of each counts in any case."""

    def script(job: Job) -> Generator[Message | None, Any, None]:
        seed = job.config["seed"]
        for tokens in (100, 500, 1_000) if seed == 7 else (200, 500, 700, 1_001):
            yield Progress(EvalPoint(tokens, float(seed)))
        yield Done({})

    case = Case(tmp_path, script, "budget.seeds=2", 'pruner={name="none"}', "seed=7", target=1)
    case.run()
    [record] = case.records
    assert record.result is not None and record.loss == 7.5
    assert [(point.tokens_seen, point.val_loss) for point in record.result.points] == [(500, 7.5), (1_000, 7.5)]


def test_the_pace_is_that_of_the_default_whatever_is_trained(tmp_path: Path) -> None:
    """A training that takes twice as long for a token is expected to take what the one before took."""
    case = Case(tmp_path, SOUND, target=2)
    case.queue = replace(case.queue, plan=replace(case.queue.plan, slowness=2.0))
    expected: list[float] = []
    case.run(may_start=lambda seconds: expected.append(seconds) or True)  # type: ignore[func-returns-value]
    first = case.records[0].result
    assert first is not None and expected[1] == pytest.approx(first.seconds)


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


# --- sessions that end ---


class LeftOfSession(SessionEnd):
    """A session of 1,000 s with so much left as a test says, of which the last 100 s are kept."""

    def __init__(self, seconds_left: float) -> None:
        super().__init__(1_000 / 3600)
        self.left = seconds_left

    @property
    def seconds_left(self) -> float:
        return self.left


def in_session(case: Case, seconds_left: float, trial_s: float) -> LeftOfSession:
    session = LeftOfSession(seconds_left)
    case.loop = replace(case.loop, session=session)
    case.loop.pace.expect(case.queue.plan.budget_tokens, trial_s)
    return session


def test_a_training_that_would_outlast_the_session_is_not_begun(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)
    in_session(case, seconds_left=50, trial_s=60)
    case.run()
    assert case.records == [] and (case.stop.level, case.stop.by) == (1, "as the session ends")
    assert case.said == ["the session ends in 2 min: the next training may take 66 s"]


def test_what_has_no_time_until_the_deadline_parks_nothing(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)
    in_session(case, seconds_left=50, trial_s=60)
    case.run(may_start=lambda seconds: False)
    assert case.stop.level == 0 and case.said == []


def test_a_training_that_fits_into_no_session_is_refused(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)
    in_session(case, seconds_left=890, trial_s=900)
    with pytest.raises(UserError, match="raise --session-hours"):
        case.run()


def test_a_training_that_takes_longer_than_promised_is_parked(tmp_path: Path) -> None:
    """The session ends while it trains; the evaluation after that is its last."""
    case = Case(tmp_path, SOUND)
    session = in_session(case, seconds_left=500, trial_s=60)
    report, seen = case.queue.store.__class__.report, []

    def end_after_the_first(*arguments: Any) -> bool:
        seen.append(arguments)
        session.left = -1.0
        return report(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case.queue.store.__class__, "report", end_after_the_first)
        case.run()
    [stopped, queued] = case.records
    assert stopped.result is not None and "tokens as the session ends" in stopped.result.cause
    assert queued.status is TrialStatus.WAITING and len(seen) < 4


def test_a_full_run_begins_whatever_is_left_and_parks_before_its_next_evaluation(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND, kind=TrainingKind.FULL, target=None)
    case.queue.enqueue({"lr": 0.01}, role="full", arm=0, seed=1)
    session = in_session(case, seconds_left=5, trial_s=600)
    asked: list[float] = []
    heed = EventLoop.heed_session

    def as_if_slow(loop: EventLoop, next_s: float = 0.0) -> None:
        asked.append(next_s)
        heed(loop, 10.0 if len(asked) == 2 else 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventLoop, "heed_session", as_if_slow)
        case.run()
    assert session.left == 5 and case.stop.by == "as the session ends"
    assert case.records[0].result is not None
    assert case.records[0].result.cause.endswith("tokens as the session ends")


def test_at_the_end_itself_nothing_is_waited_for(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)
    session = in_session(case, seconds_left=-10, trial_s=1)
    case.loop.heed_session()
    assert case.stop.level == 1
    session.left = -60.0
    case.loop.heed_session()
    assert case.stop.level == 2
