"""What a person asks is taken up once, in its order, by whoever runs the study then."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loop_case import SOUND, Case
from optuna.trial import TrialState
from study_case import make_queue, make_study, result

from autotune.core.attributes import TrialAttributes
from autotune.core.records import EvalPoint, TrialRecord, TrialStatus
from autotune.core.requests import AddTrial, Answer, SetEnd, SetRange, SetTrials, StopStudy, StopTrial, Wish
from autotune.engine import steering
from autotune.engine.deadline import Deadline, StopRequest
from autotune.engine.queue import Queue
from autotune.engine.session_end import SessionEnd
from autotune.engine.steering import Steering
from autotune.engine.worker import Done, Failed, Job, Message, Progress
from autotune.search.samplers import build_sampler

SPACE = "lr = {low = 0.0001, high = 0.1, log = true, limits = [0.00001, 1.0]}\nlayers = {choices = [1, 2, 3, 4]}"
NARROW = SetRange(path="lr", values=(0.001, 0.01), before=(0.0001, 0.1), is_range=True)
FEWER = SetRange(path="layers", values=(2, 3), before=(1, 2, 3, 4), is_range=False)
BY_HAND = AddTrial(settings={"lr": 0.02}, named=("lr",))


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "LOOK_EVERY_S", 0.0)


def steered(case: Case, deadline: Deadline | None = None, **more: Any) -> Steering:
    """Let a person steer what the case's loop does."""
    hand = Steering(case.queue.store, deadline or case.deadline, note=lambda _, said: case.said.append(said), **more)
    case.loop = replace(case.loop, steering=hand)
    return hand


def ask(queue: Queue, *wishes: Wish) -> None:
    queue.store.attributes.ask(wishes)


def answers(queue: Queue) -> list[Answer | None]:
    return [request.answer for request in queue.store.attributes.requests]


def of(case: Case, number: int) -> TrialRecord:
    return next(record for record in case.records if record.number == number)


class Stopping:
    """A trainer; the person stops its second trial after the first of four evaluations, and `then` comes of it."""

    def __init__(self, *then: Message | None) -> None:
        self.queue: Queue | None = None
        self.jobs = 0
        self.then = then

    def __call__(self, job: Job) -> Generator[Message | None, Any, None]:
        self.jobs += 1
        is_second = self.jobs == 2
        for tokens in (250, 500, 750, 1_000):
            if not (yield Progress(EvalPoint(tokens, 3.0 - tokens / 1_000))):
                break
            if is_second and tokens == 250:
                assert self.queue is not None
                ask(self.queue, StopTrial(trial=1))
                yield from self.then
        yield Done({})


# --- one trial is stopped --------------------------------------------------------------------------------


def test_a_trial_that_is_stopped_ends_after_its_next_evaluation_and_teaches_what_a_pruned_one_does(
    tmp_path: Path,
) -> None:
    script = Stopping()
    case = Case(tmp_path, script)
    script.queue = case.queue
    steered(case)
    case.run()

    assert [record.status for record in case.records] == [
        TrialStatus.FINISHED,
        TrialStatus.STOPPED,
        TrialStatus.FINISHED,
    ]
    stopped = of(case, 1)
    assert stopped.result is not None and stopped.result.cause == "stopped at 500 tokens by the user"
    assert [point.tokens_seen for point in stopped.result.points] == [250, 500]
    trial = case.queue.optuna_study.trials[1]
    assert (trial.state, trial.value, TrialAttributes(trial).stopped_at) == (TrialState.PRUNED, 2.5, 500)
    assert answers(case.queue) == [Answer(at=answers(case.queue)[0].at)]  # type: ignore[union-attr]
    assert any(said.endswith("you stopped trial 1.") for said in case.said)


@pytest.mark.parametrize("then", [Failed(False, "ValueError: it was in the midst of something"), None])
def test_one_that_crashes_before_it_could_stop_is_no_crash_and_is_not_trained_again(
    tmp_path: Path, then: Message | None
) -> None:
    script = Stopping(then)
    case = Case(tmp_path, script, "limits.crashes=1")
    script.queue = case.queue
    steered(case)
    case.run()

    finished = TrialStatus.FINISHED
    assert [record.status for record in case.records] == [finished, TrialStatus.STOPPED, finished]
    assert "stopped by the user; before its next evaluation: " in case.endings[1][1]


def test_one_that_is_killed_before_it_could_stop_is_not_trained_again(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    queue = make_queue(tmp_path, study)
    first, second = queue.take(), queue.take()
    assert first is not None and second is not None
    queue.report(second, EvalPoint(500, 2.5))
    ask(queue, StopTrial(trial=0), StopTrial(trial=1))

    again = make_queue(tmp_path, study, seed=2)
    again.recover()
    assert [record.status for record in again.records()] == [TrialStatus.STOPPED] * 2
    states = [trial.state for trial in again.optuna_study.trials]
    assert states == [TrialState.FAIL, TrialState.PRUNED], "one without an evaluation says nothing of its settings"
    Steering(again.store).look()
    assert all(request.is_done for request in again.store.attributes.requests)


def test_one_that_waits_never_begins(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND, target=1)
    case.queue.enqueue({"lr": 0.03}, role="search")
    case.queue.enqueue({"lr": 0.04}, role="search")
    ask(case.queue, StopTrial(trial=0))
    steered(case)
    case.run()
    assert [(record.number, record.params["lr"]) for record in case.records] == [(1, 0.04)]


def test_one_that_has_ended_meanwhile_is_told_so(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND, target=1)
    case.run()
    ask(case.queue, StopTrial(trial=0))
    steered(case).look()
    assert case.said[-1].endswith("you asked to stop trial 0, but it had ended before (finished).")
    assert of(case, 0).status is TrialStatus.FINISHED


# --- one is added ----------------------------------------------------------------------------------------


def test_a_trial_is_added_once_and_drawn_next_even_beyond_the_number_wanted(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND, target=1)
    case.run()
    ask(case.queue, BY_HAND)
    hand = steered(case)
    # Its process was killed after the trial was stored, and before the answer was.
    [request] = case.queue.store.attributes.requests
    case.queue.store.enqueue({"role": "search", "params": {"lr": 0.02}, "request": request.id}, {"lr": 0.02})
    hand.look()
    hand.look()
    case.run()

    assert [(record.number, record.params["lr"]) for record in case.records[1:]] == [(1, 0.02)]
    assert [answer.trial for answer in answers(case.queue) if answer] == [1]


def test_a_trial_outside_of_a_narrowed_range_trains_and_can_be_repeated(tmp_path: Path) -> None:
    study = make_study(tmp_path, space=SPACE)
    queue = make_queue(tmp_path, study, target=9)
    ask(queue, NARROW, FEWER, AddTrial(settings={"lr": 0.05, "layers": 4}))
    Steering(queue.store).look()
    assert (drawn := queue.take()) is not None and drawn.params == {"lr": 0.05, "layers": 4}

    again = make_queue(tmp_path, study, seed=2, target=9)
    again.recover()
    assert (repeated := again.take()) is not None and repeated.params == {"lr": 0.05, "layers": 4}


# --- ranges ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_nothing_is_proposed_outside_of_a_narrowed_range_and_all_of_it_within_a_widened_one(
    tmp_path: Path, sampler: str
) -> None:
    study = make_study(tmp_path, space=SPACE)
    queue = make_queue(tmp_path, study, target=1_000)
    queue.optuna_study.sampler = build_sampler(sampler, {}, study.spec.space, study.spec.base, seed=0)

    def train(count: int) -> list[dict[str, Any]]:
        seen = []
        for _ in range(count):
            assignment = queue.take()
            assert assignment is not None
            params = dict(assignment.params)
            seen.append(params)
            # The best settings lie outside of what is narrowed below, at an edge.
            loss = 3 - params["lr"] + params["layers"] / 10
            queue.tell(assignment.trial, result(loss=loss), assignment.folder)
        return seen

    train(10)
    ask(queue, NARROW, FEWER)
    Steering(queue.store).look()
    narrowed = train(6)
    assert all(0.001 <= each["lr"] <= 0.01 and each["layers"] in (2, 3) for each in narrowed)
    assert queue.store.attributes.ranges == {}, "the edge rule leaves a range alone that a person has set"

    widened = SetRange(path="lr", values=(0.2, 1.0), before=(0.001, 0.01), is_range=True)
    ask(queue, widened, SetRange(path="layers", values=(1,), before=(2, 3), is_range=False))
    Steering(queue.store).look()
    assert all(0.2 <= each["lr"] <= 1.0 and each["layers"] == 1 for each in train(3))
    assert (queue.store.whole_space["lr"].low, queue.store.whole_space["lr"].high) == (0.0001, 1.0)
    assert queue.store.spec.space["layers"].choices == (1, 2, 3, 4)


def test_a_space_that_was_used_up_is_searched_again_once_it_is_wider(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)
    case.queue.store.attributes.exhausted = True
    assert case.queue.take() is None
    ask(case.queue, NARROW)
    steered(case).look()
    assert case.queue.take() is not None


# --- how many --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "trained"), [(4, 4), (2, 2)])
def test_more_or_fewer_trials(tmp_path: Path, wanted: int, trained: int) -> None:
    case = Case(tmp_path, SOUND)
    ask(case.queue, SetTrials(trials=wanted, before=3))
    hand = steered(case)
    hand.look()
    case.run()
    assert len(case.records) == trained
    assert case.queue.store.spec.budget.trials == wanted
    # The same command goes on in the same way.
    assert make_queue(tmp_path, case.study, seed=2).take() is None


# --- the end ---------------------------------------------------------------------------------------------


def test_a_new_end_moves_the_deadline_once_and_the_plan_follows(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)
    deadline = Deadline(hours=8)
    planned: list[float] = []
    hand = steered(case, deadline, replan=lambda: planned.append(deadline.seconds_left))
    hand.begin("run")
    for hours in (3, 10):
        ask(case.queue, SetEnd(ends_at=time.time() + 3600 * hours))
        hand.look()
        hand.look()
        assert deadline.seconds_left == pytest.approx(3600 * hours, abs=600)
    assert planned == [pytest.approx(10_800, abs=600), pytest.approx(36_000, abs=600)]


@pytest.mark.parametrize(
    ("named", "is_asked", "hours"),
    [
        (8.0, False, 2.0),  # the study file's
        (8.0, True, 2.0),  # the command that was interrupted, typed again
        (5.0, True, 5.0),  # a later word
    ],
)
def test_the_end_that_was_set_counts_after_a_kill_unless_another_is_named_since(
    tmp_path: Path, named: float, is_asked: bool, hours: float
) -> None:
    case = Case(tmp_path, SOUND)
    ask(case.queue, SetEnd(ends_at=time.time() + 7_200))
    steered(case, Deadline(hours=8.0, is_asked=True)).begin("run")

    again = Deadline(hours=named, is_asked=is_asked)
    steered(case, again).begin("run")
    assert again.seconds_left == pytest.approx(3600 * hours, abs=600)


def test_the_end_of_a_night_is_not_that_of_a_later_full_run(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)
    ask(case.queue, SetEnd(ends_at=time.time() + 7_200))
    steered(case, Deadline()).begin("run")

    deadline = Deadline()
    steered(case, deadline).begin("promote")
    assert deadline.seconds_left == float("inf")


def test_one_that_has_passed_before_the_study_goes_on_is_told_so(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)
    ask(case.queue, SetEnd(ends_at=time.time() - 1))
    deadline = Deadline()
    steered(case, deadline).begin("run")
    assert deadline.seconds_left == float("inf")
    assert "but that time had passed when the study went on" in case.said[-1]


def test_an_end_before_that_of_the_session_lets_the_night_be_over_before_it_would_be_parked(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND)
    session, deadline = SessionEnd(hours=1.0), Deadline()
    ask(case.queue, SetEnd(ends_at=time.time() + 3_599))
    steered(case, deadline, session=session).begin("run")
    assert deadline.seconds_left < session.seconds_left + 1 < 3_599


# --- the end of the search -------------------------------------------------------------------------------


def test_a_search_ends_once_nothing_is_asked_of_it(tmp_path: Path) -> None:
    case = Case(tmp_path, SOUND, target=1)
    hand = steered(case)
    case.run()
    ask(case.queue, BY_HAND)
    assert not hand.ends_search()
    case.run()
    assert len(case.records) == 2
    assert hand.ends_search() and case.queue.store.attributes.is_search_over

    ask(case.queue, BY_HAND, NARROW, SetTrials(trials=9, before=1))
    hand.look()
    assert [answer.why for answer in answers(case.queue)[1:] if answer] == [steering.TOO_LATE] * 3
    assert len(case.records) == 2


@pytest.mark.parametrize(("now", "level"), [(False, 1), (True, 2)])
def test_a_stop_of_a_shared_study_counts_once_for_each_process_that_was_there(
    tmp_path: Path, now: bool, level: int
) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    ask(queue, StopStudy(now=now))
    before = [request.id for request in queue.store.attributes.requests]
    there, answering, later = StopRequest(), StopRequest(), StopRequest()
    Steering(queue.store, stop=answering).look()
    Steering(queue.store, stop=there).look()
    Steering(queue.store, stop=later, stops_before=before).look()
    assert (answering.level, there.level, later.level) == (level, level, 0)
    assert there.by == StopRequest.USER
    assert [request.is_done for request in queue.store.attributes.requests] == [True]
