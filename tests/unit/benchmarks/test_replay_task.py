"""What a search is given: its default, its rows and random settings."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from recorded_tables import CONDITIONAL, CONDITIONAL_BASE, row, table
from replay_task import Default, Task, with_default

from autotune.core.records import TrialStatus

ROWS = [
    row({"lr": 0.001}, (4.0,), TrialStatus.DIVERGED),
    *(row({"lr": 0.01 * index}, (4.0, 3.0 + index)) for index in range(1, 30)),
]


def test_a_default_in_the_middle_is_the_tables_own() -> None:
    drawn = with_default(table(ROWS), "middle", 3)
    assert drawn.spec == table(ROWS).spec
    assert drawn.rows != tuple(ROWS) and sorted(drawn.rows, key=str) == sorted(ROWS, key=str)


def test_a_default_drawn_at_random_is_a_finished_row_and_the_seeds_own() -> None:
    recorded = table(ROWS)
    drawn = [with_default(recorded, "random", seed).spec.base["lr"] for seed in range(40)]
    assert drawn == [with_default(recorded, "random", seed).spec.base["lr"] for seed in range(40)]
    assert len(set(drawn)) > 15 and 0.001 not in drawn
    assert recorded.spec.base == {"lr": 0.01}


@pytest.mark.parametrize(
    ("default", "lowest", "highest"), [("good", 5.0, 7.0), ("poor", 15.0, 21.0), ("wrong", 29.0, 32.0)]
)
def test_a_good_a_poor_and_a_wrong_default_are_drawn_by_their_ranks(
    default: Default, lowest: float, highest: float
) -> None:
    """29 finished rows whose losses are 4 to 32 in steps of 1: of 28 steps the tenth is 2.8, the fiftieth 0.56."""
    recorded = table(ROWS)
    losses = {entry.params["lr"]: entry.losses[-1] for entry in recorded.rows}
    drawn = {losses[with_default(recorded, default, seed).spec.base["lr"]] for seed in range(60)}
    assert min(drawn) == lowest and max(drawn) == highest


def test_the_best_of_a_few_rows_is_a_good_default() -> None:
    recorded = table([row({"lr": 0.01 * index}, (4.0, 3.0 + index)) for index in range(1, 4)])
    assert with_default(recorded, "good", 0).spec.base == {"lr": 0.01}


def test_a_default_of_which_a_condition_does_not_hold_keeps_the_base_value() -> None:
    rows = [row({"name": "sgd"})] * 2
    drawn = with_default(table(rows, CONDITIONAL, CONDITIONAL_BASE), "random", 0)
    assert drawn.spec.base == {"name": "sgd", "beta": 0.75}
    assert Task(drawn, 0, 1.0).baseline == {"name": "sgd"}


def test_rows_at_the_same_distance_are_taken_in_another_order_for_another_seed() -> None:
    twins = table([row({"lr": 0.01}, (4.0, 3.0 + index)) for index in range(6)])
    first = [Task(with_default(twins, "middle", seed), seed, 1.0).rows.take({"lr": 0.01}) for seed in range(30)]
    assert len({each.losses for each in first}) > 3


@pytest.mark.parametrize("way", ["nearest", "pool"])
def test_random_settings_are_of_the_space_and_the_seeds_own(way: Any) -> None:
    rows = [row({"name": "sgd"})] * 30 + [row({"name": "adam", "beta": 0.01 * index}) for index in range(30)]
    recorded = table(rows, CONDITIONAL, CONDITIONAL_BASE)
    drawn = list(itertools.islice(Task(recorded, 3, 1.0, way).random_settings(), 50))
    assert drawn == list(itertools.islice(Task(recorded, 3, 1.0, way).random_settings(), 50))
    assert drawn != list(itertools.islice(Task(recorded, 4, 1.0, way).random_settings(), 50))
    assert all(("beta" in params) == (params["name"] == "adam") for params in drawn)
    if way == "pool":
        assert all(params in [each.params for each in rows] for params in drawn)


def test_rows_drawn_at_random_are_those_that_are_left() -> None:
    task = Task(table(ROWS), 0, 1.0, "pool")
    settings = task.random_settings()
    taken = [task.rows.take(next(settings)) for _ in ROWS]
    assert sorted(each.params["lr"] for each in taken) == [each.params["lr"] for each in ROWS]
    assert task.num_taken == len(ROWS)
