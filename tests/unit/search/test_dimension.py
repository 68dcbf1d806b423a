"""One dimension: its distribution, values, positions and grid, and what it refuses."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError

from autotune.search.dimension import Dimension


@pytest.mark.parametrize(
    ("entry", "distribution"),
    [
        ({"low": 0.1, "high": 1.0}, FloatDistribution(0.1, 1.0)),
        ({"low": 0.001, "high": 1, "log": True}, FloatDistribution(0.001, 1.0, log=True)),
        ({"low": 0.0, "high": 1.0, "step": 0.25}, FloatDistribution(0.0, 1.0, step=0.25)),
        ({"low": 0, "high": 1, "step": 0.5}, FloatDistribution(0.0, 1.0, step=0.5)),
        ({"low": 1, "high": 8}, IntDistribution(1, 8)),
        ({"low": 1, "high": 64, "log": True}, IntDistribution(1, 64, log=True)),
        ({"low": 1, "high": 9, "step": 2}, IntDistribution(1, 9, step=2)),
        ({"choices": [4, 8, 16]}, CategoricalDistribution([4, 8, 16])),
        ({"choices": [True, False]}, CategoricalDistribution([True, False])),
        ({"choices": ["a", 1, 0.5]}, CategoricalDistribution(["a", 1, 0.5])),
    ],
)
def test_each_kind_of_dimension_is_the_distribution_that_was_meant(
    entry: dict[str, Any], distribution: optuna.distributions.BaseDistribution
) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    value = Dimension.model_validate(entry).suggest(trial, "x")
    assert trial.distributions == {"x": distribution}
    assert trial.params == {"x": value}


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ({"low": 1, "high": 4}, [1, 4, 2], [0, 5, "2", True, None, float("nan")]),
        ({"low": 0.0, "high": 0.5}, [0, 0.5], [-0.1, 0.51, "0.1"]),
        ({"choices": ["a", 2]}, ["a", 2], ["b", 3, None]),
    ],
)
def test_contains(entry: dict[str, Any], inside: list[object], outside: list[object]) -> None:
    dimension = Dimension.model_validate(entry)
    assert all(dimension.contains(value) for value in inside)
    assert not any(dimension.contains(value) for value in outside)


def test_grids_by_hand() -> None:
    assert Dimension(low=1, high=4).grid() == [1, 2, 3, 4]
    assert Dimension(low=1, high=9, step=4).grid() == [1, 5, 9]
    assert Dimension(low=0.0, high=0.3, step=0.1).grid() == [0.0, 0.1, 0.2, 0.3]
    with pytest.raises(ValueError, match=r"a grid needs choices or a step, but the range is 0\.1 to 1\.0"):
        Dimension(low=0.1, high=1.0).grid()


def test_in_words() -> None:
    assert Dimension(low=1, high=4).describe() == "1 to 4"
    assert Dimension(low=0.1, high=1.0, log=True).describe() == "0.1 to 1.0 (log)"
    assert Dimension(choices=("a", 2, True)).describe() == "one of a, 2, True"


@pytest.mark.parametrize(
    "entry",
    [
        {"low": 0.1, "high": 0.45, "step": 0.1},
        {"low": 1, "high": 8, "step": 2},
        {"low": float("nan"), "high": 1},
        {"low": 0, "high": float("inf")},
        {"low": True, "high": 2},
        {"low": "1", "high": 2},
        {"choices": [1, 1.0]},
        {"choices": [{"a": 1}]},
    ],
)
def test_what_cannot_be_searched_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Dimension.model_validate(entry)


def test_decimals_count_as_they_are_written() -> None:
    assert len(Dimension(low=0.0, high=1.0, step=0.1).grid()) == 11
    assert len(Dimension(low=0.1, high=0.7, step=0.2).grid()) == 4


@pytest.mark.parametrize(
    ("entry", "value", "position"),
    [
        ({"low": 2.0, "high": 6.0}, 2.0, 0.0),
        ({"low": 2.0, "high": 6.0}, 3.0, 0.25),
        ({"low": 2.0, "high": 6.0}, 6.0, 1.0),
        ({"low": -1.0, "high": 1.0}, 0.5, 0.75),
        # 0.01 is one of the three decades above 0.001, and by their difference almost nothing of the range.
        ({"low": 0.001, "high": 1.0, "log": True}, 0.001, 0.0),
        ({"low": 0.001, "high": 1.0, "log": True}, 0.01, 1 / 3),
        ({"low": 0.001, "high": 1.0, "log": True}, 1.0, 1.0),
        ({"low": 1, "high": 64, "log": True}, 8, 0.5),
        ({"low": 1, "high": 5}, 4, 0.75),
        ({"low": 2, "high": 10, "step": 4}, 6, 0.5),
        ({"low": 0.0, "high": 1.0, "step": 0.25}, 0.75, 0.75),
        ({"choices": ["a", "b", "c"]}, "a", 0.0),
        ({"choices": ["a", "b", "c"]}, "b", 0.5),
        ({"choices": ["a", "b", "c"]}, "c", 1.0),
        # Choices lie in their order, whatever they are worth.
        ({"choices": [16, 2, 1000, 4, 3]}, 2, 0.25),
        ({"choices": [True, False]}, False, 1.0),
        ({"choices": ["only"]}, "only", 0.0),
        ({"low": 3, "high": 3}, 3, 0.5),
        ({"low": 0.1, "high": 0.1, "log": True}, 0.1, 0.5),
    ],
)
def test_position_by_hand(entry: dict[str, Any], value: object, position: float) -> None:
    assert Dimension.model_validate(entry).position(value) == pytest.approx(position, abs=1e-12)
