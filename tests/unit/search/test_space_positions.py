"""Where values lie between a dimension's ends, and the base config's own values of a space."""

from __future__ import annotations

from typing import Any

import pytest

from autotune.search.dimension import Dimension
from autotune.search.space import SearchSpace


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


BASE = {"lr": 0.01, "optim": {"name": "adam", "beta": 0.9, "clip": 1.0}, "model": {"layers": 2, "width": 64}}
SPACE = SearchSpace.model_validate(
    {
        "optim.name": {"choices": ["sgd", "adam"]},
        "model.layers": {"low": 1, "high": 4},
        "optim.beta": {"low": 0.5, "high": 0.99, "when": {"optim.name": "sgd"}},
        "lr": {"low": 0.001, "high": 0.1, "log": True},
    }
)


def test_defaults_are_the_bases_own_values_whether_a_condition_holds_or_not() -> None:
    expected = {"optim.name": "adam", "model.layers": 2, "optim.beta": 0.9, "lr": 0.01}
    assert SPACE.defaults(BASE) == expected
    assert list(SPACE.defaults(BASE)) == list(expected)


def test_the_baseline_is_the_defaults_less_those_whose_condition_fails() -> None:
    assert SPACE.baseline(BASE) == {"optim.name": "adam", "model.layers": 2, "lr": 0.01}


def test_a_base_that_lacks_a_searched_setting_has_no_defaults() -> None:
    with pytest.raises(KeyError, match=r"model\.layers"):
        SPACE.defaults({**BASE, "model": {"width": 64}})
