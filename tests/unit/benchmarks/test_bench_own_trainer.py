"""The twenty trainers of the benchmark, and what is a right verdict."""

from __future__ import annotations

from typing import Any

import pytest
from bench_own_trainer import Outcome, trainer


@pytest.mark.parametrize(("number", "name"), [(0, "error"), (1, "r2")])
@pytest.mark.parametrize("helps", [True, False])
def test_a_setting_that_does_nothing_changes_the_luck_alone(number: int, name: str, helps: bool) -> None:
    module: dict[str, Any] = {}
    exec(trainer(number, helps), module)

    def trained(**settings: float) -> float:
        config = {"lr": 0.02, "momentum": 0.0, "one": 0.5, "other": 0.5, "seed": 1, "output": {"dir": ""}}
        points: list[dict[str, float]] = []
        module["train"]({**config, **settings}, 2, lambda point: points.append(point) or True)
        return points[-1][name]

    assert module["metric"]["name"] == name and trained() == trained()
    assert (trained(one=0.6) == trained()) is helps and trained(lr=0.2) != trained()


@pytest.mark.parametrize(("helps", "word", "is_right"), [
    (True, "better", True), (True, "inconclusive", False), (False, "better", False), (False, "no clear gain", True),
])  # fmt: skip
def test_only_a_true_improvement_may_be_called_better(helps: bool, word: str, is_right: bool) -> None:
    assert Outcome(helps, word, 0.1, 0.01, (0.0, 0.2), 8).is_right is is_right
