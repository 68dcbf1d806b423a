"""The arithmetic of a comparison over tables, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import replay_figures
from replay_figures import Cell, Outcome, bootstrap_interval, chosen_elsewhere, compare, geometric_mean

from autotune.replay.simulation import Search

INF = math.inf

# The best loss is 2, so 2.01 is within 0.5 %, 2.02 within 1 %, 2.1 within 5 %; a whole training takes 10 s.
CELL = Cell(
    2.0,
    10.0,
    20.0,
    (
        Outcome(Search((10.0, 15.0, 40.0), (3.0, 2.02, 2.01)), 0.1),
        Outcome(Search((10.0, 25.0, 90.0), (2.1, INF, 2.0)), 0.3),
        Outcome(Search((10.0, 195.0, 207.0), (3.0, 2.2, 2.05)), 0.2),
        Outcome(Search((10.0,), (3.0,)), 5.0),
    ),
)


def test_times_are_in_whole_trainings_and_the_budget_where_nothing_was_found() -> None:
    assert CELL.times(0.005) == [4.0, 9.0, 20.0, 20.0]
    assert CELL.times(0.01) == [1.5, 9.0, 20.0, 20.0]
    # The third search began its last training within the budget and found it after that: found, but no later.
    assert CELL.times(0.05) == [1.5, 1.0, 20.0, 20.0]
    assert [CELL.found_frac(within) for within in (0.005, 0.01, 0.05)] == [0.5, 0.5, 0.75]


def test_regrets_are_medians_of_what_had_ended_by_then() -> None:
    # After 1.5 trainings: 2.02, 2.1, 3, 3; after 4: 2.01, 2.1, 3, 3; after 9: 2.01, 2, 3, 3; after 20: 2.01, 2, 2.2, 3.
    assert [CELL.regret(trainings) for trainings in (1.5, 4, 9, 20)] == pytest.approx([0.275, 0.275, 0.2525, 0.0525])
    assert CELL.regret(0.5) == INF
    assert math.isnan(CELL.regret(20.5))


def test_thinking_is_the_median_over_searches() -> None:
    assert CELL.thinking_s == pytest.approx(0.25)


def test_geometric_means_by_hand() -> None:
    assert geometric_mean([4.0, 9.0]) == pytest.approx(6.0)
    assert geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)


def test_an_interval_is_the_seeds_own_and_holds_the_mean() -> None:
    ratios = [1.5, 2.0, 3.0, 0.8, 2.5]
    assert bootstrap_interval(ratios) == bootstrap_interval(ratios) != bootstrap_interval(ratios, seed=1)
    low, high = bootstrap_interval(ratios)
    assert 0.8 < low < geometric_mean(ratios) < high < 3.0


def test_an_interval_scales_with_its_values_and_is_a_point_where_they_are_equal() -> None:
    assert bootstrap_interval([2.0, 2.0, 2.0]) == pytest.approx((2.0, 2.0))
    assert bootstrap_interval([3.0]) == pytest.approx((3.0, 3.0))
    assert bootstrap_interval([2.0, 6.0, 4.0]) == pytest.approx(2 * np.array(bootstrap_interval([1.0, 3.0, 2.0])))


def test_of_two_tables_the_interval_is_their_two_ratios() -> None:
    """Both draws are the first table in a fourth of the samples, and the second one in another fourth."""
    assert bootstrap_interval([1.0, 4.0]) == pytest.approx((1.0, 4.0))


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        low, high = bootstrap_interval(list(np.exp(rng.normal(0.7, 0.5, 12))), seed)
        held += low <= math.exp(0.7) <= high
    # A percentile interval of 12 values is known to be a little narrow.
    assert 0.86 <= held / 200 <= 0.98


def test_a_method_is_compared_with_the_reference_and_with_random_search() -> None:
    reference = {"a": 8.0, "b": 6.0, "c": 10.0}
    at_random = {"a": 9.0, "b": 7.0, "c": 5.0}
    compared = compare({"a": 4.0, "b": 12.0, "c": 5.0}, reference, at_random)
    # Ratios 2, 0.5 and 2; slower than random on b alone, since c is as fast.
    assert compared.ratio == pytest.approx(2 ** (1 / 3))
    assert (compared.worst_table, compared.worst_ratio, compared.slower_than_random) == ("b", 0.5, 1)
    assert compared.interval == bootstrap_interval([2.0, 0.5, 2.0])
    assert compare(reference, reference, at_random).ratio == 1.0


def test_a_variant_is_chosen_by_the_other_tables() -> None:
    times = {
        "early": {"a": 1.0, "b": 8.0, "c": 4.0},
        "late": {"a": 8.0, "b": 2.0, "c": 4.0},
    }
    # Without a: 32 against 8. Without b: 4 against 32. Without c: 8 against 16.
    assert chosen_elsewhere(times) == {"a": "late", "b": "early", "c": "early"}


def test_of_equal_variants_the_first_is_chosen() -> None:
    times = {"first": {"a": 2.0, "b": 3.0}, "second": {"a": 2.0, "b": 3.0}}
    assert chosen_elsewhere(times) == {"a": "first", "b": "first"}


def test_the_distances_and_budgets_are_those_of_the_goal() -> None:
    assert replay_figures.WITHIN_FRACS == (0.005, 0.01, 0.05)
    assert replay_figures.REGRETS_AFTER == (5, 10, 20, 40)
