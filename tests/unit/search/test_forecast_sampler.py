"""The sampler that learns from what stopped trials would have ended with."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.search.forecast_sampler import ForecastSampler
from autotune.search.samplers import build_sampler
from autotune.search.space import SearchSpace

SPACE = SearchSpace.model_validate(
    {
        "lr": {"low": 0.0, "high": 1.0},
        "heads": {"choices": [2, 4]},
        "depth": {"low": 0.0, "high": 1.0, "when": {"heads": 4}},
    }
)
BASE = {"lr": 0.5, "heads": 2, "depth": 0.25}


class Shown(optuna.samplers.RandomSampler):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.trials: list[FrozenTrial] = []

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.trials = [each for each in study.get_trials(deepcopy=False) if each.number != trial.number]
        return {"lr": 0.125, "heads": 4, "depth": 0.75}


def ended(curve: dict[int, float], state: TrialState = TrialState.COMPLETE, **more: Any) -> FrozenTrial:
    params = more.pop("params", {"lr": 0.5, "heads": 2})
    return create_trial(
        state=state,
        params=params,
        distributions={path: SPACE[path].distribution() for path in params},
        value=curve[max(curve)] if state is TrialState.COMPLETE else None,
        intermediate_values=curve,
        **more,
    )


def shown(*trials: FrozenTrial) -> list[FrozenTrial]:
    """What the inner sampler sees of a study."""
    inner = Shown()
    study = optuna.create_study(sampler=ForecastSampler(inner, SPACE, BASE))
    study.add_trials(trials)
    trial = study.ask()
    assert SPACE.suggest(trial, BASE) == {"lr": 0.125, "heads": 4, "depth": 0.75}
    return inner.trials


def test_a_stopped_trial_counts_with_its_forecast() -> None:
    stopped = ended({20: 5.5}, TrialState.PRUNED, user_attrs={"stopped_at": 20})
    trials = shown(ended({20: 5.0, 100: 4.0}), stopped)
    assert [(trial.state, trial.value) for trial in trials] == [
        (TrialState.COMPLETE, 4.0),
        (TrialState.COMPLETE, pytest.approx(4.16)),
    ]


def test_no_forecast_outdoes_what_was_trained_to_its_end() -> None:
    stopped = ended({20: 3.0}, TrialState.PRUNED, user_attrs={"stopped_at": 20})
    assert shown(ended({20: 5.0, 100: 4.0}), stopped)[1].value == 4.0


def test_what_diverged_or_did_not_fit_counts_as_the_worst() -> None:
    diverged = ended({20: 5.1}, TrialState.PRUNED)
    out_of_memory = ended({}, TrialState.PRUNED)
    trials = shown(ended({20: 5.0, 100: 4.0}), ended({20: 6.0, 100: 4.9}), diverged, out_of_memory)
    assert [trial.value for trial in trials] == [4.0, 4.9, 4.9, 4.9]


def test_faults_of_the_machine_do_not_count_and_running_trials_have_no_value() -> None:
    running = create_trial(
        state=TrialState.RUNNING,
        params={"lr": 0.25, "heads": 2},
        distributions={path: SPACE[path].distribution() for path in ("lr", "heads")},
    )
    trials = shown(ended({100: 4.0}), ended({20: 5.0}, TrialState.FAIL), running)
    assert [(trial.state, trial.params["lr"]) for trial in trials] == [
        (TrialState.COMPLETE, 0.5),
        (TrialState.RUNNING, 0.25),
    ]


def test_a_setting_without_its_condition_counts_with_its_base_value() -> None:
    trials = shown(ended({100: 4.0}), ended({100: 3.9}, params={"lr": 0.1, "heads": 4, "depth": 0.5}))
    assert [trial.params["depth"] for trial in trials] == [0.25, 0.5]


def test_values_beyond_the_present_range_are_left_out() -> None:
    beyond = create_trial(
        params={"lr": 3.0, "heads": 2},
        distributions={"lr": optuna.distributions.FloatDistribution(0, 5), "heads": SPACE["heads"].distribution()},
        value=1.0,
        intermediate_values={100: 1.0},
    )
    assert [trial.value for trial in shown(ended({100: 4.0}), beyond)] == [4.0]


def test_the_real_sampler_goes_where_stopped_trials_were_good() -> None:
    """All but the first trial, at lr = 0.8, were stopped, the later the farther from it: proposals stay near it."""
    space = SearchSpace.model_validate({"lr": {"low": 0.0, "high": 1.0}, "gain": {"low": 0.0, "high": 1.0}})
    study = optuna.create_study(sampler=build_sampler("gp", {}, space, {"lr": 0.1, "gain": 0.5}, seed=1))
    distributions = {path: space[path].distribution() for path in space}
    for number, lr in enumerate((0.8, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)):
        loss = 6.0 + 2 * (lr - 0.8) ** 2
        curve = {50: loss, 100: loss - 1} if not number else {50: loss}
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED if number else TrialState.COMPLETE,
                params={"lr": lr, "gain": 0.5},
                distributions=distributions,
                value=None if number else loss - 1,
                intermediate_values=curve,
                user_attrs={"stopped_at": 50} if number else {},
            )
        )
    proposed = [space.suggest(study.ask(), {})["lr"] for _ in range(3)]
    assert all(float(lr) > 0.6 for lr in proposed)


def test_two_objectives_are_passed_on() -> None:
    space = SearchSpace.model_validate({"lr": {"low": 0.0, "high": 1.0}})
    sampler = build_sampler("gp", {}, space, {"lr": 0.1}, seed=1)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.optimize(lambda trial: (float(space.suggest(trial, {})["lr"]), 1.0), n_trials=5)
    assert len(study.trials) == 5 and study.best_trials
