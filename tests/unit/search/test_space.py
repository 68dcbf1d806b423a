"""The search space: proposals, conditions, corners and the base config's own values."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from autotune.core.config_paths import with_paths
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


DEFAULTS_BASE = {"lr": 0.01, "optim": {"name": "adam", "beta": 0.9, "clip": 1.0}, "model": {"layers": 2, "width": 64}}
DEFAULTS_SPACE = SearchSpace.model_validate(
    {
        "optim.name": {"choices": ["sgd", "adam"]},
        "model.layers": {"low": 1, "high": 4},
        "optim.beta": {"low": 0.5, "high": 0.99, "when": {"optim.name": "sgd"}},
        "lr": {"low": 0.001, "high": 0.1, "log": True},
    }
)


def test_defaults_are_the_bases_own_values_whether_a_condition_holds_or_not() -> None:
    expected = {"optim.name": "adam", "model.layers": 2, "optim.beta": 0.9, "lr": 0.01}
    assert DEFAULTS_SPACE.defaults(DEFAULTS_BASE) == expected
    assert list(DEFAULTS_SPACE.defaults(DEFAULTS_BASE)) == list(expected)


def test_the_baseline_is_the_defaults_less_those_whose_condition_fails() -> None:
    assert DEFAULTS_SPACE.baseline(DEFAULTS_BASE) == {"optim.name": "adam", "model.layers": 2, "lr": 0.01}


def test_a_base_that_lacks_a_searched_setting_has_no_defaults() -> None:
    with pytest.raises(KeyError, match=r"model\.layers"):
        DEFAULTS_SPACE.defaults({**DEFAULTS_BASE, "model": {"width": 64}})


# --- how many settings there are ---


@pytest.mark.parametrize(
    ("dimensions", "number"),
    [
        ({"model__layers": {"low": 1, "high": 9, "step": 2}, "model__width": {"choices": [32, 64]}}, 10),
        ({"model__layers": {"low": 1, "high": 9, "log": True}}, 9),
        ({"optim__lr": {"low": 0.1, "high": 1.0}}, 1_000),
        ({"optim__lr": {"low": 0.1, "high": 0.5, "step": 0.1}}, 5),
        # With adam and muon there are two values of beta; with sgd there are four of the layers.
        (
            {
                "optim__name": {"choices": ["adam", "muon", "sgd", "lion"]},
                "optim__beta": {"choices": [0.9, 0.99], "when": {"optim.name": ["adam", "muon"]}},
                "model__layers": {"low": 1, "high": 4, "when": {"optim.name": "sgd", "model.width": 64}},
            },
            2 + 2 + 4 + 1,
        ),
        # A continuous range that is searched nowhere, as the width is 64.
        (
            {"model__layers": {"low": 1, "high": 3}, "optim__lr": {"low": 0.1, "high": 1, "when": {"model.width": 1}}},
            3,
        ),
        # A condition on one value of a continuous range.
        (
            {"optim__lr": {"low": 0.1, "high": 1.0}, "model__layers": {"low": 1, "high": 3, "when": {"optim.lr": 0.5}}},
            1_000,
        ),
    ],
)  # fmt: skip
def test_settings_are_counted(dimensions: dict[str, Any], number: int) -> None:
    counted = space(**dimensions)
    assert counted.num_settings(BASE, 1_000) == number
    assert counted.num_settings(BASE, 2) == 2
    if number < 1_000:
        assert len(list(counted.every_setting(BASE, {}))) == number


def test_counting_ends_however_large_the_space_is() -> None:
    """20 settings of 1,000 choices, each of which is named by a condition."""
    base = {f"s{index}": 0 for index in range(21)}
    dimensions: dict[str, Any] = {"s0": {"choices": list(range(1_000))}}
    for index in range(1, 21):
        named = {f"s{index - 1}": list(range(1_000))}
        dimensions[f"s{index}"] = {"choices": list(range(1_000)), "when": named}
    assert SearchSpace.model_validate(dimensions).num_settings(base, 10_000_000) == 10_000_000
    many: dict[str, Any] = {f"s{index}": {"choices": [0, 1]} for index in range(5_000)}
    many["last"] = {"low": 0.0, "high": 1.0}
    assert SearchSpace.model_validate(many).num_settings({}, 10_000_000) == 10_000_000
    assert space(model__layers={"low": 1, "high": 2**53}).num_settings(BASE, 10_000_000) == 10_000_000
