"""The final loss that a trial is expected to reach."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.search.forecast import RESIDUAL_FRAC, SLOPE, SLOPE_SIGMA, Forecaster


def test_one_finished_trial_gives_the_expected_slope() -> None:
    """At a fifth of the budget a third of a difference remains; from five eighths on all of it."""
    forecaster = Forecaster([{20: 5.0, 80: 4.2, 100: 4.0}])
    assert forecaster.final_loss(20, 5.5) == pytest.approx(4.0 + 0.2 * SLOPE * 0.5)
    assert forecaster.final_loss(80, 4.0) == pytest.approx(3.8)
    assert forecaster.final_loss(20, 5.0) == pytest.approx(4.0)


def test_it_is_the_ridge_regression_with_that_slope_as_its_prior() -> None:
    """The same by least squares with one more equation for the prior."""
    losses, finals = np.array([5.0, 5.3, 4.9, 5.6]), np.array([4.1, 4.3, 4.0, 4.2])
    forecaster = Forecaster([{20: loss, 100: final} for loss, final in zip(losses, finals, strict=True)])
    weight = RESIDUAL_FRAC * (losses.mean() - finals.mean()) / SLOPE_SIGMA
    equations = np.append(losses - losses.mean(), weight)[:, None]
    values = np.append(finals - finals.mean(), weight * 0.2 * SLOPE)
    slope = np.linalg.lstsq(equations, values, rcond=None)[0][0]
    assert forecaster.final_loss(20, 5.4) == pytest.approx(finals.mean() + slope * (5.4 - losses.mean()))


def test_many_trials_outweigh_the_expectation() -> None:
    forecaster = Forecaster([{20: 4.0 + place, 100: 3.0 + 0.9 * place} for place in np.linspace(0, 3, 50)])
    assert forecaster.final_loss(20, 5.0) == pytest.approx(3.9, abs=0.01)


def test_trials_without_an_evaluation_there_say_nothing() -> None:
    assert Forecaster([{20: 5.0, 100: 4.0}]).final_loss(30, 5.0) is None
    assert Forecaster([]).final_loss(20, 5.0) is None
