"""Queues on a real storage, without workers: what is drawn, told, taken up and given up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from study_case import make_queue, make_study, result

from autotune.core.attributes import TrialAttributes
from autotune.core.config_paths import drop_unknown_paths
from autotune.core.errors import UserError
from autotune.core.files import read_json, read_lines
from autotune.core.records import TrainingKind, TrialResult, TrialStatus
from autotune.core.setups import Device
from autotune.engine.assignment import Assignment, TrainingPlan, hardware_overrides
from autotune.engine.draw import MAX_ATTEMPTS
from autotune.engine.queue import Queue
from autotune.store.study_store import open_fixed


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return make_queue(tmp_path, make_study(tmp_path))


def again(queue: Queue, tmp_path: Path) -> Queue:
    """The same queue, as the next process opens it."""
    return make_queue(tmp_path, queue.study, seed=2)


def with_plan(queue: Queue, **changes: Any) -> Queue:
    return replace(queue, plan=replace(queue.plan, **changes))


def take(queue: Queue) -> Assignment:
    assignment = queue.take()
    assert assignment is not None
    return assignment


def tell(queue: Queue, assignment: Assignment, told: TrialResult) -> None:
    queue.tell(assignment.trial, told, assignment.folder)


def states(queue: Queue) -> list[TrialState]:
    return [trial.state for trial in queue.optuna_study.trials]


def test_the_baseline_comes_first_and_its_config_is_written(queue: Queue) -> None:
    queue.enqueue({"lr": 0.001}, role="baseline")
    first = take(queue)
    assert first.params == {"lr": 0.001}
    assert (first.trial.number, first.first_attempt, first.budget_tokens) == (0, 0, 1_000)
    assert (first.config["lr"], first.config["seed"], first.config["layers"]) == (0.001, 1, 2)
    assert read_json(first.folder / "config.json") == first.config
    assert take(queue).params != first.params


def test_the_engines_own_settings_do_not_replace_the_proposal(queue: Queue) -> None:
    assignment = take(with_plan(queue, overrides={"layers": 7, "lr": 99.0}))
    assert assignment.config["layers"] == 7
    assert assignment.config["lr"] == assignment.params["lr"] != 99.0


def test_the_target_counts_what_ended_and_what_runs_but_not_what_was_interrupted(queue: Queue) -> None:
    first, second, third = take(queue), take(queue), take(queue)
    assert queue.take() is None
    tell(queue, first, result())
    tell(queue, second, TrialResult(TrialStatus.CRASHED, "planned"))
    assert queue.take() is None
    tell(queue, third, TrialResult(TrialStatus.INTERRUPTED, "stopped"))
    repeated = take(queue)
    assert (repeated.params, repeated.first_attempt) == (third.params, third.trial.number)
    assert queue.take() is None


@pytest.mark.parametrize(
    ("status", "state", "value"),
    [
        (TrialStatus.FINISHED, TrialState.COMPLETE, 2.0),
        (TrialStatus.PRUNED, TrialState.PRUNED, 3.0),
        (TrialStatus.DIVERGED, TrialState.PRUNED, 3.0),
        (TrialStatus.OUT_OF_MEMORY, TrialState.PRUNED, 3.0),
        (TrialStatus.CRASHED, TrialState.FAIL, None),
        (TrialStatus.INTERRUPTED, TrialState.FAIL, None),
    ],
)
def test_what_optuna_is_told(queue: Queue, status: TrialStatus, state: TrialState, value: float | None) -> None:
    assignment = take(queue)
    assignment.trial.report(3.0, step=500)
    tell(queue, assignment, result(status))
    trial = queue.optuna_study.trials[0]
    assert (trial.state, trial.value) == (state, value)
    assert queue.records()[0].status is status


def test_out_of_memory_before_the_first_evaluation_is_told_without_a_value(queue: Queue) -> None:
    tell(queue, take(queue), TrialResult(TrialStatus.OUT_OF_MEMORY, "no room"))
    assert (queue.optuna_study.trials[0].state, queue.optuna_study.trials[0].value) == (TrialState.PRUNED, None)


# --- what a dead process left ---


def test_an_orphan_with_a_stored_result_is_told_finished(queue: Queue, tmp_path: Path) -> None:
    assignment = take(queue)
    TrialAttributes(assignment.trial).result = result(loss=1.5)
    later = again(queue, tmp_path)
    later.recover()
    assert (later.optuna_study.trials[0].state, later.optuna_study.trials[0].value) == (TrialState.COMPLETE, 1.5)
    assert len(later.records()) == 1


def test_an_orphan_without_a_result_is_queued_again_with_its_settings(queue: Queue, tmp_path: Path) -> None:
    queue.enqueue({"lr": 0.001}, role="baseline")
    assignment = take(queue)
    assignment.trial.report(3.0, step=500)
    later = again(queue, tmp_path)
    later.recover()
    orphan, repeat = later.records()
    assert (orphan.status, repeat.status) == (TrialStatus.INTERRUPTED, TrialStatus.WAITING)
    assert orphan.result is not None
    assert [(point.tokens_seen, point.val_loss) for point in orphan.result.points] == [(500, 3.0)]
    assert (repeat.params, repeat.role, repeat.retry_of) == ({"lr": 0.001}, "baseline", 0)
    assert repeat.result is None
    assert take(later).params == {"lr": 0.001}


def test_a_trial_drawn_by_the_sampler_keeps_its_settings_too(queue: Queue, tmp_path: Path) -> None:
    assignment = take(queue)
    later = again(queue, tmp_path)
    later.recover()
    assert take(later).params == assignment.params


def test_recovering_twice_changes_nothing(queue: Queue, tmp_path: Path) -> None:
    take(queue)
    later = again(queue, tmp_path)
    later.recover()
    once = later.optuna_study.trials
    later.recover()
    assert later.optuna_study.trials == once
    assert sum(event["kind"] == "requeued" for event in read_lines(later.run.events)) == 1


def test_ones_own_trials_are_no_orphans(queue: Queue) -> None:
    assignment = take(queue)
    own = [assignment.trial.number]
    queue.recover(own)
    assert states(queue) == [TrialState.RUNNING]
    assert not queue.is_settled()
    tell(queue, assignment, result())


def test_a_queue_with_a_peers_trial_or_a_waiting_one_is_not_settled(queue: Queue, tmp_path: Path) -> None:
    assert queue.is_settled()
    take(again(queue, tmp_path))
    assert not queue.is_settled()


def test_a_worker_that_dies_again_and_again_is_given_up_after_the_retries(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path, "limits.retries=2"))
    params = []
    for _ in range(3):
        assignment = take(queue)
        params.append(assignment.params)
        tell(queue, assignment, TrialResult(TrialStatus.INTERRUPTED, "killed", worker_died=True))
    assert params == [params[0]] * 3
    assert all(state is TrialState.FAIL for state in states(queue))
    assert take(queue).params != params[0]
    assert sum(event["kind"] == "requeued" for event in read_lines(queue.run.events)) == 2


def test_an_interruption_from_outside_is_repeated_without_limit(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path, "limits.retries=0"))
    for number in range(5):
        assignment = take(queue)
        assert (assignment.trial.number, assignment.first_attempt) == (number, 0)
        tell(queue, assignment, TrialResult(TrialStatus.INTERRUPTED, "stopped by the user"))


def test_a_study_whose_workers_all_die_is_given_up(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path, "limits.retries=0"), target=1)
    for _ in range(2 * MAX_ATTEMPTS):
        tell(queue, take(queue), TrialResult(TrialStatus.INTERRUPTED, "killed", worker_died=True))
    with pytest.raises(UserError, match="8 trials were started for the 1 wanted, and too few of them ended") as caught:
        queue.take()
    assert caught.value.exit_code == 1


# --- queues that are filled beforehand ---


def test_enqueueing_is_idempotent(queue: Queue) -> None:
    for _ in range(2):
        queue.enqueue({"lr": 0.001}, role="baseline")
        queue.enqueue({"lr": 0.002}, role="final", arm=3, seed=1001, stage="select")
        queue.enqueue({"lr": 0.002}, role="final", arm=3, seed=1002, stage="select")
    assert [record.seed for record in queue.records()] == [0, 1001, 1002]


def test_finals_train_the_given_settings_on_the_given_seed_and_then_end(queue: Queue) -> None:
    store = replace(queue.store, optuna_study=open_fixed(queue.storage, "night.finals"))
    queue = Queue(TrainingPlan(TrainingKind.FINALS, 1_000), store)
    queue.enqueue({"lr": 0.002}, role="final", arm=3, seed=1001, stage="prove")
    assignment = take(queue)
    assert (assignment.params, assignment.config["lr"], assignment.config["seed"]) == ({"lr": 0.002}, 0.002, 1001)
    assert assignment.folder == queue.run.root / "finals" / "0000"
    assert queue.take() is None
    tell(queue, assignment, result())
    [record] = queue.records()
    assert (record.arm, record.seed, record.stage, record.params, record.loss) == (3, 1001, "prove", {"lr": 0.002}, 2.0)


@pytest.mark.parametrize("name", ["grid", "brute_force"])
def test_a_used_up_grid_ends_the_search(tmp_path: Path, name: str) -> None:
    from autotune.search.samplers import build_sampler

    study = make_study(tmp_path, space="layers = {choices = [1, 2]}")
    queue = make_queue(tmp_path, study, target=9)
    queue.optuna_study.sampler = build_sampler(name, {}, study.spec.space, study.spec.base, seed=0)
    seen = []
    while (assignment := queue.take()) is not None:
        seen.append(assignment.params["layers"])
        tell(queue, assignment, result())
    assert sorted(seen) == [1, 2]
    assert again(queue, tmp_path).take() is None


def test_a_trial_that_a_peer_ended_is_reported_and_told_without_a_fault(queue: Queue) -> None:
    assignment = take(queue)
    assert queue.report(assignment, result().points[0])
    queue.optuna_study.tell(0, state=TrialState.FAIL)
    assert not queue.report(assignment, result().points[1])
    tell(queue, assignment, result())
    assert states(queue)[0] is TrialState.FAIL


def test_the_engine_fills_in_only_what_the_trainer_has_and_the_file_leaves_open(tmp_path: Path) -> None:
    assert drop_unknown_paths({"a": {"b": 1}}, {"a.b": 2, "a.c": 3, "a": 4}) == {"a.b": 2}
    study = make_study(tmp_path, "base.layers=3")
    roles = {"device": "layers", "dtype": "heads", "memory_bytes": "system.memory_bytes"}
    declaring = replace(study, trainer=replace(study.trainer, setting_roles=roles))
    settings = {"device": 9, "dtype": 8, "memory_bytes": 7, "flash_attention": True}
    assert hardware_overrides(declaring, settings) == {"heads": 8}


def test_a_fixed_study_uses_no_pruner(queue: Queue) -> None:
    assert isinstance(open_fixed(queue.storage, "x").pruner, optuna.pruners.NopPruner)


def test_what_did_not_fit_waits_for_a_device_with_more_memory(queue: Queue, tmp_path: Path) -> None:
    """Of trials that wait, a smaller device takes the next one that it has room for, and then a new one."""
    for lr, needs in ((0.01, 2**33), (0.02, 0)):
        queue.store.enqueue({"params": {"lr": lr}, "role": "search", "needs_bytes": needs}, {"lr": lr})
    small = replace(queue, store=replace(queue.store, device=Device("Tesla T4", 2**33)))
    large = replace(queue, store=replace(queue.store, device=Device("NVIDIA A10", 2**34)))

    assert take(small).params == {"lr": 0.02}
    assert take(small).trial.number == 2  # of its own
    assert not small.has_next() and large.has_next()
    assert take(large).params == {"lr": 0.01}


def test_trainings_of_one_class_are_left_alone_by_others(queue: Queue) -> None:
    of_a10 = with_plan(queue, kind=TrainingKind.FINALS, target=None, only_on="NVIDIA A10")
    of_a10.enqueue({"lr": 0.01}, role="final", arm=0, seed=1, stage="prove")
    other = replace(of_a10, store=replace(queue.store, device=Device("Tesla T4", 2**40)))
    own = replace(of_a10, store=replace(queue.store, device=Device("NVIDIA A10", 1)))
    assert other.take() is None and not other.has_next()
    # Nobody else is at work, so that they would be waited for in vain.
    assert other.is_abandoned() and other.is_settled()
    assert not own.is_abandoned() and not own.is_settled() and take(own).params == {"lr": 0.01}
