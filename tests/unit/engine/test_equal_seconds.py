"""Token budgets by hand, on a real storage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_case import make_queue, make_study, result

from autotune.core.records import EvalPoint, TrialStatus
from autotune.engine.cost_model import CostModel, Counts
from autotune.engine.equal_seconds import EqualSeconds
from autotune.engine.queue import Queue

COUNTED = {
    "step_tokens": 10.0,
    "passes": 1.0,
    "weights": 0.0,
    "fixed_bytes": 0.0,
    "pass_bytes": 0.0,
    "update_bytes": 0.0,
}


def counts(config: dict[str, Any], facts: object) -> dict[str, float]:
    return {**COUNTED, "pass_flops": 100.0 * config["layers"]}


def make(queue: Queue, counting: bool = True, **changes: Any) -> EqualSeconds:
    """Speeds against a baseline of 50 tokens a second, with a budget of 1,000 tokens."""
    trainer = queue.study.trainer
    if counting:
        trainer = replace(trainer, counter=lambda config, facts: counts(config.model_dump(), facts))
    study = replace(queue.study, trainer=trainer)
    return replace(EqualSeconds(study, queue.optuna_study, queue.storage, {}, None, 50.0, (40, 0)), **changes)


def with_equal_seconds(queue: Queue) -> Queue:
    return replace(queue, plan=replace(queue.plan, equal_seconds=make(queue)))


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    space = "lr = {low = 0.0001, high = 0.1, log = true}\nlayers = {choices = [2, 4]}"
    return make_queue(tmp_path, make_study(tmp_path, space=space))


def config(queue: Queue, **changes: Any) -> dict[str, Any]:
    return {**queue.study.spec.base, **changes}


def test_budgets_are_in_proportion_to_the_speed_and_settled_once(queue: Queue) -> None:
    seconds = make(queue)
    four = {"layers": 4}, config(queue, layers=4)
    assert seconds.tokens(*four) is None
    assert seconds.keep(*four, 25.0) == 500
    assert seconds.keep(*four, 40.0) == 500, "another process was first"
    assert make(queue, baseline_per_s=1.0).tokens(*four) == 500
    assert seconds.tokens({"layers": 4, "lr": 0.1}, config(queue, layers=4, lr=0.1)) == 500
    assert seconds.tokens({"layers": 2}, config(queue, layers=2)) is None
    assert seconds.slowest == 2.0


def test_what_is_not_counted_is_told_apart_by_all_settings(queue: Queue) -> None:
    seconds = make(queue, counting=False)
    assert seconds.keep({"layers": 4, "lr": 0.1}, config(queue), 100.0) == 2_000
    assert seconds.tokens({"lr": 0.1, "layers": 4}, config(queue)) == 2_000
    assert seconds.tokens({"layers": 4, "lr": 0.2}, config(queue)) is None
    assert seconds.slowest == 1.0


def test_a_cost_model_needs_no_probe(queue: Queue) -> None:
    """10 tokens a step of 0.1 s and 0.001 s a FLOP: 10 / 0.3 and 10 / 0.5 tokens a second."""
    model = CostModel(0.1, 0.001, 0.0, 0.0, 0.0, 0.0)
    two = model.tokens_per_s(Counts.of(counts({"layers": 2}, {})))
    seconds = make(queue, model=model, baseline_per_s=two)
    assert seconds.tokens({"layers": 2}, config(queue, layers=2)) == 1_000
    assert seconds.tokens({"layers": 4}, config(queue, layers=4)) == 600


def test_the_first_trial_of_its_kind_is_a_probe_first(queue: Queue) -> None:
    queue = with_equal_seconds(queue)
    queue.enqueue({"lr": 0.01, "layers": 4})
    queue.enqueue({"lr": 0.02, "layers": 4})
    first = queue.take()
    assert first is not None
    assert (first.budget_tokens, first.probe_points) == (40, 0)
    training = queue.with_measured_speed(first, 25.0)
    assert (training.budget_tokens, training.probe_points, training.config) == (500, None, first.config)
    second = queue.take()
    assert second is not None
    assert (second.budget_tokens, second.probe_points) == (500, None)
    assert [record.budget_tokens for record in queue.records()] == [500, 500]


def test_evaluations_are_told_where_the_baseline_would_stand(queue: Queue, tmp_path: Path) -> None:
    """And taken back to the trial's own tokens when it has to be ended for a dead process."""
    queue = with_equal_seconds(queue)
    queue.enqueue({"lr": 0.01, "layers": 4})
    first = queue.take()
    assert first is not None
    training = queue.with_measured_speed(first, 25.0)
    assert queue.report(training, EvalPoint(125, 3.0)) and queue.report(training, EvalPoint(250, 2.0))
    assert queue.optuna_study.trials[0].intermediate_values == {250: 3.0, 500: 2.0}
    assert queue.records()[0].values == {125: 3.0, 250: 2.0}
    later = make_queue(tmp_path, queue.study, seed=2)
    later.recover()
    orphan, repeat = later.records()
    assert orphan.result is not None and orphan.status is TrialStatus.INTERRUPTED
    assert [point.tokens_seen for point in orphan.result.points] == [125, 250]
    # Whatever speeds are said to be by now.
    later.optuna_study.set_user_attr("speeds", {})
    later = with_equal_seconds(later)
    again = later.take()
    assert again is not None
    assert (again.budget_tokens, again.probe_points, repeat.budget_tokens) == (500, None, 500)


def test_of_two_values_the_curve_is_kept_beside_optunas(tmp_path: Path) -> None:
    study = make_study(tmp_path, 'objective="loss_and_seconds"', 'pruner={name="none"}')
    queue = make_queue(tmp_path, study)
    assignment = queue.take()
    assert assignment is not None
    assert queue.report(assignment, EvalPoint(500, 3.0)) and queue.report(assignment, EvalPoint(1_000, 2.0))
    assert queue.records()[0].values == {500: 3.0, 1_000: 2.0}
    queue.tell(assignment.trial, result(seconds=7.0), assignment.folder)
    assert queue.optuna_study.trials[0].values == [2.0, 7.0]
    assert not queue.report(assignment, EvalPoint(1_000, 2.0)), "a peer has ended it"


def test_each_class_of_devices_has_speeds_of_its_own(queue: Queue) -> None:
    four = {"layers": 4}, config(queue, layers=4)
    a10, t4 = make(queue, device_class="NVIDIA A10"), make(queue, device_class="Tesla T4", baseline_per_s=5.0)
    assert a10.keep(*four, 25.0) == 500
    assert t4.tokens(*four) is None and t4.keep(*four, 1.0) == 200
    assert (a10.tokens(*four), t4.tokens(*four)) == (500, 200)
    assert (a10.slowest, t4.slowest) == (2.0, 5.0)
