"""What is drawn: settings that were tried are not tried again, whoever proposes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from study_case import make_queue, make_study, result

from autotune.core.records import TrialStatus
from autotune.engine.queue import Queue
from autotune.search.samplers import build_sampler

PAIRS = "layers = {choices = [1, 2]}\nheads = {low = 1, high = 2}"
CONDITIONAL = "layers = {choices = [1, 2]}\nheads = {choices = [1, 2, 3], when = {layers = 2}}"


def open_queue(folder: Path, space: str, sampler: str = "", **plan: Any) -> Queue:
    study = make_study(folder, space=space)
    queue = make_queue(folder, study, **{"target": 30, **plan})
    if sampler:
        queue.optuna_study.sampler = build_sampler(sampler, {}, study.spec.space, study.spec.base, seed=0)
    return queue


def train_all(queue: Queue) -> list[dict[str, Any]]:
    """Train until nothing is left; the losses differ between trainings of the same settings."""
    seen: list[dict[str, Any]] = []
    while (assignment := queue.take()) is not None:
        assert assignment.config["layers"] == assignment.params.get("layers", 2)
        seen.append(dict(assignment.params))
        queue.tell(assignment.trial, result(loss=3 - 0.01 * len(seen)), assignment.folder)
    return seen


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random", "nsga2", "qmc", "brute_force", "grid"])
def test_no_sampler_tries_settings_twice_and_a_space_that_is_used_up_ends_the_search(
    tmp_path: Path, sampler: str
) -> None:
    queue = open_queue(tmp_path, PAIRS, sampler)
    queue.enqueue({"layers": 2, "heads": 2}, role="baseline")
    seen = train_all(queue)

    assert seen[0] == {"layers": 2, "heads": 2}
    assert sorted((each["layers"], each["heads"]) for each in seen) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert queue.store.attributes.exhausted
    assert len(queue.records()) == 4
    assert make_queue(tmp_path, queue.study, seed=2, target=30).take() is None


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_settings_that_a_condition_leaves_out_make_no_difference(tmp_path: Path, sampler: str) -> None:
    seen = train_all(open_queue(tmp_path, CONDITIONAL, sampler))
    assert sorted(map(str, seen)) == [
        "{'layers': 1}",
        "{'layers': 2, 'heads': 1}",
        "{'layers': 2, 'heads': 2}",
        "{'layers': 2, 'heads': 3}",
    ]


class Stubborn(optuna.samplers.RandomSampler):
    """Proposes the same whenever it is asked."""

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, dist: BaseDistribution) -> Any:
        return {"lr": 0.1, "layers": 7, "heads": 2}[name]


def test_a_sampler_that_insists_is_overruled(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, "lr = {low = 0.0001, high = 0.1}\nlayers = {low = 1, high = 1_000_000_000}", target=5)
    queue.optuna_study.sampler = Stubborn()
    seen = train_all(queue)
    assert seen[0] == {"lr": 0.1, "layers": 7}
    assert len({tuple(each.values()) for each in seen}) == len(seen) == 5


def test_settings_that_crashed_or_still_run_are_tried_as_well(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, PAIRS)
    running, crashed = queue.take(), queue.take()
    assert running is not None and crashed is not None
    queue.tell(crashed.trial, result(TrialStatus.CRASHED), crashed.folder)
    seen = [dict(running.params), dict(crashed.params), *train_all(queue)]
    assert len({tuple(each.values()) for each in seen}) == len(seen) == 4


def test_queued_settings_that_were_tried_are_passed_over_and_count_as_no_trial(tmp_path: Path) -> None:
    said: list[str] = []
    queue = open_queue(tmp_path, PAIRS, target=2)
    queue = Queue(queue.plan, queue.store, lambda kind, message: said.append(message))
    queue.enqueue({"layers": 2, "heads": 2}, role="baseline")
    for settings in ({"layers": 2, "heads": 2}, {"heads": 2, "layers": 2}, {"layers": 1, "heads": 2}):
        queue.enqueue(settings, role="search")

    assert train_all(queue) == [{"layers": 2, "heads": 2}, {"layers": 1, "heads": 2}]
    assert said == ["the queued settings layers=2, heads=2 are those of trial 0: they are not tried again"]
    assert [record.number for record in queue.records()] == [0, 2]

    later = make_queue(tmp_path, queue.study, target=2)
    later.recover()
    later.enqueue({"layers": 2, "heads": 2}, role="search")
    assert later.take() is None
    assert len(later.optuna_study.trials) == 3


def test_what_is_left_open_of_queued_settings_is_chosen_so_that_they_are_new(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, PAIRS, target=1)
    queue.optuna_study.sampler = Stubborn()
    queue.enqueue({"layers": 1, "heads": 2}, role="search")
    queue.enqueue({"layers": 1}, role="search")
    assert train_all(queue) == [{"layers": 1, "heads": 2}, {"layers": 1, "heads": 1}]


def test_an_interrupted_trial_is_repeated_with_its_settings(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, PAIRS, target=2)
    first = queue.take()
    assert first is not None
    queue.tell(first.trial, result(TrialStatus.INTERRUPTED), first.folder)
    again = queue.take()
    assert again is not None
    assert (again.params, again.first_attempt) == (first.params, first.trial.number)


@pytest.mark.parametrize(("seed", "left"), [(1, 3), (2, 4), (0, 4)])
def test_what_an_earlier_study_tried_with_the_same_seed_is_not_proposed(tmp_path: Path, seed: int, left: int) -> None:
    queue = open_queue(tmp_path, PAIRS)
    space = queue.study.spec.space
    prior = create_trial(
        state=TrialState.COMPLETE,
        value=2.0,
        params={"layers": 1, "heads": 1},
        distributions={path: space[path].distribution() for path in space},
        user_attrs={"role": "prior", "seed": seed},
    )
    queue.optuna_study.add_trial(prior)
    assert len(train_all(queue)) == left


def test_its_good_settings_are_trained_here_all_the_same(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, "layers = {choices = [1, 2]}", target=1)
    prior = create_trial(
        value=2.0,
        params={"layers": 1},
        distributions={"layers": queue.study.spec.space["layers"].distribution()},
        user_attrs={"role": "prior", "seed": 1},
    )
    queue.optuna_study.add_trial(prior)
    queue.enqueue({"layers": 1}, role="search")
    assert train_all(queue) == [{"layers": 1}]
