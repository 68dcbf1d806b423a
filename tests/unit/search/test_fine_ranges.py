"""Ranges of very many values: they cost no memory, and every proposal is one of their values."""

from __future__ import annotations

import tracemalloc
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from autotune.search.dimension import Dimension
from autotune.search.fine_ranges import MAX_LISTED, as_continuous, on_grid
from autotune.search.samplers import build_sampler
from autotune.search.space import SearchSpace

HUGE: list[dict[str, Any]] = [
    {"low": 1, "high": 10**9},
    {"low": 10**6, "high": 10**9, "log": True},
    {"low": 0, "high": 2**53},
    {"low": 64, "high": 64 * 10**8, "step": 64},
    {"low": 0.0, "high": 1.0, "step": 0.00001},
]


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("name", ["gp", "tpe", "random", "nsga2", "qmc"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_no_sampler_lists_the_values(name: str, directions: int) -> None:
    space = SearchSpace.model_validate({f"x{number}": entry for number, entry in enumerate(HUGE)})
    base = {path: space[path].low for path in space}
    study = optuna.create_study(sampler=build_sampler(name, {}, space, base, 0), directions=["minimize"] * directions)
    import scipy.stats.qmc  # noqa: F401 (tracing makes imports slow)
    import torch  # noqa: F401

    tracemalloc.start()
    try:
        for number in range(5):
            trial = study.ask()
            values = space.suggest(trial, base)
            assert all(space[path].contains(value) for path, value in values.items())
            assert values["x3"] % 64 == 0  # type: ignore[operator]
            study.tell(trial, [number] * directions)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 100e6


def test_a_range_is_continuous_from_where_listing_it_would_cost_something() -> None:
    few, many = IntDistribution(1, MAX_LISTED), IntDistribution(1, MAX_LISTED + 1, log=True)
    floats = FloatDistribution(0.0, 1.0, step=0.25)
    smooth = as_continuous({"few": few, "many": many, "floats": floats})
    assert smooth == {"few": few, "many": FloatDistribution(1.0, MAX_LISTED + 1.0, log=True), "floats": floats}


def test_proposals_are_rounded_to_the_nearest_value() -> None:
    space = {"x": IntDistribution(5, 100_005, step=50), "y": FloatDistribution(0.0, 1.0), "z": IntDistribution(1, 9)}
    assert on_grid({"x": 129.9, "y": 0.3, "z": 4}, space) == {"x": 105, "y": 0.3, "z": 4}
    assert on_grid({"x": 100_004.9}, space) == {"x": 100_005}
    assert isinstance(on_grid({"x": 129.9}, space)["x"], int)


def test_a_value_of_a_huge_range_is_found_without_its_grid() -> None:
    assert Dimension(low=64, high=64 * 10**12, step=64).num_values == 10**12
    assert Dimension(low=64, high=64 * 10**12, step=64).value(10**12 - 1) == 64 * 10**12
    assert Dimension(choices=("a", "b")).value(1) == "b"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"low": 1, "high": 10**30}, "whole numbers cannot be told apart"),
        ({"low": 1, "high": 9, "limits": (1, 10**30)}, "whole numbers cannot be told apart"),
        ({"choices": list(range(1001))}, "lists 1,001 values"),
    ],
)
def test_what_no_sampler_could_go_through_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dimension.model_validate(entry)


def test_an_option_that_lists_every_value_is_refused() -> None:
    space = SearchSpace.model_validate({"x": {"low": 1, "high": 10**9}})
    with pytest.raises(ValueError, match="with_margin lists every value of x"):
        build_sampler("cmaes", {"with_margin": True}, space, {"x": 1}, 0)
