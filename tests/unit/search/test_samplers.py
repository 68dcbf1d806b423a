"""Samplers: every name builds and proposes, seeds repeat, and the space is respected."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import optuna
import pytest

from autotune.search.samplers import SAMPLERS, build_sampler, is_of_type, parameters, rehearse
from autotune.search.space import SearchSpace

SPACE = SearchSpace.model_validate(
    {
        "optim.lr": {"low": 0.0, "high": 1.0, "step": 0.25},
        "model.layers": {"low": 1, "high": 3},
        "optim.name": {"choices": ["adam", "muon"]},
    }
)
BASE: dict[str, Any] = {"optim": {"lr": 0.5, "name": "adam"}, "model": {"layers": 2}}
INSTALLED = [name for name in SAMPLERS if name != "cmaes" or importlib.util.find_spec("cmaes")]


def proposals(sampler: optuna.samplers.BaseSampler, count: int) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=sampler)
    proposed = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's samplers announce that they are experimental
        for _ in range(count):
            trial = study.ask()
            proposed.append(SPACE.suggest(trial, BASE))
            study.tell(trial, proposed[-1]["optim.lr"] + proposed[-1]["model.layers"])
    return proposed


@pytest.mark.parametrize("name", INSTALLED)
def test_every_sampler_builds_without_parameters_and_stays_in_the_space(name: str) -> None:
    # More trials than any sampler's random start of ten.
    for values in proposals(build_sampler(name, {}, SPACE, BASE, seed=1), 14):
        assert list(values) == list(SPACE)
        assert all(SPACE[path].contains(value) for path, value in values.items())


@pytest.mark.skipif("cmaes" in INSTALLED, reason="cmaes is installed here")
def test_a_sampler_without_its_package_says_which() -> None:
    with pytest.raises(ImportError) as caught:
        rehearse(build_sampler("cmaes", {}, SPACE, BASE, seed=1), SPACE, BASE)
    assert caught.value.name == "cmaes"


@pytest.mark.parametrize("name", ["tpe", "random", "nsga2", "qmc"])
def test_the_same_seed_repeats_and_another_does_not(name: str) -> None:
    first, again, other = (proposals(build_sampler(name, {}, SPACE, BASE, seed), 12) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_tpe_thinks_of_all_settings_together_and_of_trials_that_run() -> None:
    sampler = build_sampler("tpe", {"n_startup_trials": 3}, SPACE, BASE, seed=1)
    assert isinstance(sampler, optuna.samplers.TPESampler)
    assert (sampler._multivariate, sampler._constant_liar, sampler._group) == (True, True, False)
    assert sampler._n_startup_trials == 3


def test_tpe_groups_the_settings_of_a_conditional_space() -> None:
    conditional = SearchSpace.model_validate(
        {"a": {"choices": [1, 2]}, "b": {"low": 0.0, "high": 1.0, "when": {"a": 1}}}
    )
    sampler = build_sampler("tpe", {}, conditional, {}, seed=1)
    assert isinstance(sampler, optuna.samplers.TPESampler)
    assert sampler._group


def test_a_grid_holds_every_combination_once() -> None:
    sampler = build_sampler("grid", {}, SPACE, BASE, seed=1)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: float(SPACE.suggest(trial, BASE)["model.layers"]), n_trials=100)
    seen = {tuple(trial.params.items()) for trial in study.trials}
    assert len(study.trials) == len(seen) == 5 * 3 * 2


def test_a_grid_refuses_a_range_without_steps() -> None:
    continuous = SearchSpace.model_validate({"lr": {"low": 0.1, "high": 1.0}})
    with pytest.raises(ValueError, match="a grid needs choices or a step"):
        build_sampler("grid", {}, continuous, {}, seed=1)


@pytest.mark.parametrize("name", ["grid", "brute_force"])
def test_a_grid_that_could_never_be_tried_is_refused(name: str) -> None:
    huge = SearchSpace.model_validate({"a": {"low": 1, "high": 10**6}, "b": {"low": 1, "high": 10**6}})
    with pytest.raises(ValueError, match="1,000,000,000,000 combinations, more than could be tried"):
        build_sampler(name, {}, huge, {}, seed=1)


def test_a_used_up_grid_is_no_fault_in_the_rehearsal() -> None:
    one = SearchSpace.model_validate({"x": {"choices": [1, 2]}})
    for name in ("grid", "brute_force"):
        rehearse(build_sampler(name, {}, one, {"x": 1}, seed=1), one, {"x": 1})


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_study_file_may_give_only_what_toml_can_express(name: str) -> None:
    accepted = parameters(name)
    assert not {"seed", "search_space", "constant_liar", "gamma", "weights", "independent_sampler"} & accepted.keys()


def test_types_of_parameters() -> None:
    assert parameters("tpe")["n_startup_trials"] == ["int"]
    assert is_of_type(3, ["int"])
    assert is_of_type(3, ["float"])
    assert is_of_type(True, ["bool"])
    assert not is_of_type(True, ["int"])
    assert not is_of_type("3", ["int"])
    assert not is_of_type(0.5, ["int"])
