"""The lowest point of a sweep over batches and learning rates."""

from __future__ import annotations

import math

import pytest
from bench_promotion import AS_IS, BATCHES, RATES, lowest, name_of


def bowl(batch: float, rate: float) -> float:
    """Lowest at 3 times the batch and 1.5 times the rate, and tilted."""
    x, y = math.log(batch / 3), math.log(rate / 1.5)
    return 4.0 + 0.02 * x * x + 0.05 * y * y - 0.02 * x * y


def test_it_is_that_of_the_bowl_through_the_best_pairs() -> None:
    losses = {name_of(batch, rate): bowl(batch, rate) for batch in BATCHES for rate in RATES}
    batch, rate, least = lowest({AS_IS: 3.0, **losses})
    assert (batch, rate) == (pytest.approx(3.0), pytest.approx(1.5))
    assert least == min(losses.values())


def test_at_an_edge_it_is_the_best_pair() -> None:
    losses = {name_of(batch, rate): 4 - 0.01 * batch for batch in BATCHES for rate in RATES}
    losses[name_of(16, 1)] = 3.8
    assert lowest(losses) == (16, 1, 3.8)


def test_few_pairs_are_enough() -> None:
    assert lowest({name_of(1, 1): 4.0, name_of(2, 1): 3.9}) == (2, 1, 3.9)
