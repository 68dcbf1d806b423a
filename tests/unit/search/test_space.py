"""The search space: proposals, conditions, corners, paths and what a dimension refuses."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError

from autotune.core.config_paths import flatten, get_path, with_paths
from autotune.search.dimension import Dimension
from autotune.search.space import MAX_CORNERS, SearchSpace

BASE = {"optim": {"lr": 0.01, "name": "adam", "beta": 0.9}, "model": {"layers": 2, "width": 64}}


def space(**dimensions: dict[str, Any]) -> SearchSpace:
    return SearchSpace.model_validate({path.replace("__", "."): entry for path, entry in dimensions.items()})


CONDITIONAL = space(
    optim__name={"choices": ["adam", "muon", "sgd"]},
    optim__beta={"low": 0.5, "high": 0.99, "when": {"optim.name": ["adam", "muon"]}},
    model__layers={"low": 1, "high": 4, "when": {"optim.name": "sgd", "model.width": 64}},
)


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
    value = space(x=entry).suggest(trial, {"x": 0})["x"]
    assert trial.distributions == {"x": distribution}
    assert trial.params == {"x": value}


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        ({"optim.name": "adam", "optim.beta": 0.6, "model.layers": 3}, {"optim.name": "adam", "optim.beta": 0.6}),
        ({"optim.name": "muon", "optim.beta": 0.7, "model.layers": 3}, {"optim.name": "muon", "optim.beta": 0.7}),
        ({"optim.name": "sgd", "optim.beta": 0.6, "model.layers": 3}, {"optim.name": "sgd", "model.layers": 3}),
    ],
)
def test_a_conditional_setting_is_proposed_only_where_its_condition_holds(
    fixed: dict[str, Any], expected: dict[str, Any]
) -> None:
    trial = optuna.trial.FixedTrial(fixed)
    assert CONDITIONAL.suggest(trial, BASE) == expected
    assert CONDITIONAL.active(fixed, BASE) == expected


def test_a_condition_on_a_setting_that_is_not_searched_looks_at_the_base() -> None:
    narrow = with_paths(BASE, {"model.width": 32})
    assert CONDITIONAL.active({"optim.name": "sgd", "model.layers": 3}, narrow) == {"optim.name": "sgd"}


def test_a_condition_on_an_inactive_setting_looks_at_its_base_value() -> None:
    chained = space(
        optim__name={"choices": ["adam", "sgd"]},
        model__layers={"low": 2, "high": 4, "when": {"optim.name": "sgd"}},
        model__width={"choices": [64, 128], "when": {"model.layers": 2}},
    )
    values = {"optim.name": "adam", "model.layers": 4, "model.width": 128}
    # With adam the layers stay at their base value of 2, for which the width is searched.
    assert chained.active(values, BASE) == {"optim.name": "adam", "model.width": 128}


def test_corners_by_hand() -> None:
    plain = space(optim__lr={"low": 0.1, "high": 1.0}, model__layers={"choices": [1, 2, 3]})
    assert plain.corners(BASE) == [
        {"optim.lr": lr, "model.layers": layers} for lr in (0.1, 1.0) for layers in (1, 2, 3)
    ]
    # adam and muon with two ends of beta each, sgd with two of layers.
    assert len(CONDITIONAL.corners(BASE)) == 6
    assert space(optim__lr={"low": 0.5, "high": 0.5}).corners(BASE) == [{"optim.lr": 0.5}]


def test_too_many_corners_leave_the_lowest_and_the_highest() -> None:
    exact = space(**{f"x{number}": {"low": 0, "high": 1} for number in range(8)})
    assert len(exact.corners({})) == 2**8 == MAX_CORNERS
    more = space(**{f"x{number}": {"low": 0, "high": 1} for number in range(9)})
    assert more.corners({}) == [{f"x{number}": end for number in range(9)} for end in (0, 1)]


def test_the_baseline_holds_the_active_base_values() -> None:
    assert CONDITIONAL.baseline(BASE) == {"optim.name": "adam", "optim.beta": 0.9}
    assert CONDITIONAL.baseline(with_paths(BASE, {"optim.name": "sgd"})) == {"optim.name": "sgd", "model.layers": 2}


def test_whether_it_is_conditional() -> None:
    assert CONDITIONAL.is_conditional
    assert not space(x={"choices": [1]}).is_conditional


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


def test_a_path_that_does_not_exist_is_named_whole() -> None:
    for path in ("optim.lrr", "optim.lr.x", "nothing"):
        with pytest.raises(KeyError) as caught:
            get_path(BASE, path)
        assert caught.value.args == (path,)
        with pytest.raises(KeyError):
            with_paths(BASE, {path: 1})


def test_with_paths_leaves_its_argument_alone() -> None:
    changed = with_paths(BASE, {"optim.lr": 1.0, "model": {"layers": 9}})
    assert (changed["optim"]["lr"], changed["model"]) == (1.0, {"layers": 9})
    assert (BASE["optim"]["lr"], BASE["model"]["layers"]) == (0.01, 2)
    assert changed["optim"] is not BASE["optim"]


def test_flatten_by_hand() -> None:
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": [3]}}}) == {"a": 1, "b.c": 2, "b.d.e": [3]}
