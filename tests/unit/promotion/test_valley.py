"""Where the lowest loss lies: the power law, and what measured losses say of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.promotion_results import Scaling
from autotune.promotion.valley import Law, Valley, posterior

LAW = Law(exponent=-0.32, exponent_sd=0.25, own_sd=0.4)
FACTORS = (0.5, 1.0, 2.0)
LOG2 = math.log(2)


def valley(best: float, tokens: int, curvature: float = 0.04, factors: tuple[float, ...] = FACTORS) -> Valley:
    """Losses of a parabola over the logarithm of the factor."""
    losses = tuple(4.0 + curvature * (math.log(factor) - math.log(best)) ** 2 for factor in factors)
    return Valley(tokens, factors, losses)


# --- what a bracket says ---


def at_own_length(measured: Valley, sigma: float) -> Scaling:
    """The best factor at the trial's length, where the exponent does not matter."""
    return posterior(LAW, 1_000, 1_000, (measured,), sigma)


@pytest.mark.parametrize("best", [0.4, 0.8, 1.0, 1.7])
def test_the_lowest_point_of_a_sharp_valley(best: float) -> None:
    assert at_own_length(valley(best, 1_000), 1e-4).factor == pytest.approx(best, rel=0.02)


def test_losses_within_noise_leave_what_was_known() -> None:
    before, after = posterior(LAW, 1_000, 1_000), at_own_length(valley(1.5, 1_000), sigma=1.0)
    assert after.factor == pytest.approx(before.factor, rel=0.02)
    assert after.high / after.low == pytest.approx(before.high / before.low, rel=0.02)


def test_losses_that_still_fall_at_the_end_say_that_the_best_lies_beyond_it() -> None:
    assert at_own_length(Valley(1_000, FACTORS, (4.0, 4.3, 4.9)), 0.003).factor < 0.6


def test_one_that_did_not_finish_leaves_what_the_others_say() -> None:
    assert at_own_length(Valley(1_000, FACTORS, (4.1, 4.0, None)), 0.003).factor > 1.0
    assert at_own_length(Valley(1_000, FACTORS, (4.1, None, None)), 0.003) == posterior(LAW, 1_000, 1_000)


def test_what_is_maximised_has_valleys_as_deep() -> None:
    """Its losses lie below zero: no hill among them is taken for a valley, and one of exactly zero is measured too."""
    around = (-0.02, 0.03, -0.01)
    above, below = (Valley(1_000, FACTORS, tuple(height + each for each in around)) for height in (4.0, -4.0))
    assert at_own_length(below, 0.003).factor == pytest.approx(at_own_length(above, 0.003).factor)
    assert at_own_length(Valley(1_000, FACTORS, (0.0, 0.1, 0.3)), 0.001).factor < 0.8


def test_it_counts_for_as_much_as_it_is_sure() -> None:
    """Against the lowest points of ten thousand draws of the three losses, weighed by the normal's own conditioning."""
    import numpy as np

    sigma, exact = 0.002, valley(0.8, 1_000)
    losses = np.array(exact.losses, dtype=float) + np.random.default_rng(0).normal(0, sigma, (10_000, 3))
    # The vertex through three points at equal distances h: h / 2 (l- - l+) / (l- - 2 l0 + l+).
    low, middle, high = losses.T
    variance = (LOG2 / 2 * (low - high) / (low - 2 * middle + high)).var()
    scaled = at_own_length(exact, sigma)
    assert math.log(scaled.factor) == pytest.approx(math.log(0.8) * 0.4**2 / (0.4**2 + variance), abs=0.02)
    spread = math.sqrt(variance * 0.4**2 / (variance + 0.4**2))
    assert math.log(scaled.high / scaled.low) == pytest.approx(2 * 1.96 * spread, rel=0.1)


# --- the factor ---


def test_without_losses_it_is_the_published_power() -> None:
    scaled = posterior(LAW, 1_000, 8_000)
    assert scaled.factor == pytest.approx(8**-0.32)
    assert (scaled.exponent, scaled.exponent_sd) == (pytest.approx(-0.32), pytest.approx(0.25, rel=0.01))
    spread = 1.96 * math.hypot(0.4, 0.25 * math.log(8))
    assert scaled.high / scaled.factor == pytest.approx(math.exp(spread), rel=0.01)
    assert scaled.factor / scaled.low == pytest.approx(math.exp(spread), rel=0.01)


def test_where_the_own_value_is_known_to_be_off_all_are() -> None:
    scaled = posterior(Law(0.5, 0.1, 0.4, own=-0.7), 1_000, 16_000)
    assert scaled.factor == pytest.approx(math.exp(-0.7) * 4)


def test_two_sharp_valleys_say_it_all() -> None:
    """The best is 0.9 of the trial's at its length and 0.6 at three times that: so 0.4 at nine times."""
    valleys = (valley(0.9, 1_000, 40.0), valley(0.6, 3_000, 40.0))
    scaled = posterior(LAW, 1_000, 9_000, valleys, sigma=1e-4)
    assert scaled.factor == pytest.approx(0.9 * (0.6 / 0.9) ** 2, rel=0.01)
    assert scaled.exponent == pytest.approx(math.log(0.6 / 0.9) / math.log(3), rel=0.01)
    assert scaled.exponent_sd < 0.01


@given(
    best=st.floats(0.1, 9.0), tokens=st.integers(2_000, 100_000), sigma=st.floats(0.0, 9.0), scale=st.floats(0.001, 9.0)
)
def test_whatever_was_measured_there_is_an_answer(best: float, tokens: int, sigma: float, scale: float) -> None:
    scaled = posterior(LAW, 1_000, tokens, (valley(best, 1_000, scale), valley(best, 2_000, scale)), sigma)
    assert 0 < scaled.low <= scaled.factor <= scaled.high < math.inf
    assert abs(scaled.exponent + 0.32) <= 4 * 0.25 + 1e-9
