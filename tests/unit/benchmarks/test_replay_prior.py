"""A prior around the default: how much it moves the expected improvement, and that it fades."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from replay_prior import PriorSampler

from autotune.search.forecast_sampler import ForecastSampler
from autotune.search.space import SearchSpace
from autotune.search.unit_cube import UnitCube

RANGE = {"low": 0.0, "high": 1.0}
CUBE = UnitCube({"a": FloatDistribution(0.0, 1.0), "b": CategoricalDistribution(("x", "y"))})


@pytest.mark.parametrize("trials", [2, 5])
def test_the_logarithm_of_the_prior_counts_by_ten_over_the_number_of_trials(trials: int) -> None:
    """A quarter of a range away is one standard deviation, -0.5; another choice lies a whole range away, -8."""
    space = SearchSpace.model_validate({"a": RANGE, "b": {"choices": ["x", "y"]}})
    inner, base = optuna.samplers.RandomSampler(), {"a": 0.5, "b": "x"}
    plain, prior = (
        each(inner, space, base, seed=0)._log_improvement(
            CUBE,
            np.linspace(0, 1, trials)[:, None] * [1.0, 0.0],
            np.linspace(1, 2, trials),
            np.array([[0.5, 0.0], [0.75, 0.0], [0.5, 1.0]]),
        )
        for each in (ForecastSampler, PriorSampler)
    )
    assert prior - plain == pytest.approx(np.array([0.0, -0.5, -8.0]) * 10 / trials)
