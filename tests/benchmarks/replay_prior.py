"""The engine's search with a prior around the default, to see what one is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from replay_task import Task

from autotune.replay import simulation
from autotune.replay.simulation import Search
from autotune.search.forecast_sampler import ForecastSampler
from autotune.search.space import SearchSpace
from autotune.search.unit_cube import UnitCube
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec

WEIGHT = 10.0
"""How much the prior counts at the first trial; at the n-th, the n-th part of that. Hvarfner et al. use a tenth of all
trials, which is as much where a search has 100."""
SIGMA = 0.25
"""Standard deviation of the prior in each coordinate, in units of a range."""


class PriorSampler(ForecastSampler):
    """Weighs the expected improvement by a normal density around the default, whose weight fades with trials.

    Source: Hvarfner et al. (2022), "piBO".

    Args:
        inner: Asked where trials are judged by several values, which they are not here.
        space: What is searched.
        base: The nested base config; its settings are the centre.
        seed: Of the positions that are weighed.
    """

    def __init__(self, inner: BaseSampler, space: SearchSpace, base: Mapping[str, Any], *, seed: int) -> None:
        super().__init__(inner, space, base, seed=seed)

    def _log_improvement(
        self, cube: UnitCube, positions: np.ndarray, losses: np.ndarray, candidates: np.ndarray
    ) -> np.ndarray:
        centre = cube.points(cube.positions([self._defaults]))
        log_prior = -0.5 * (((cube.points(candidates) - centre) / SIGMA) ** 2).sum(axis=1)
        improvement = super()._log_improvement(cube, positions, losses, candidates)
        return np.asarray(improvement + WEIGHT / len(losses) * log_prior)


def search_with_prior(task: Task) -> Search:
    """Simulate the engine's search with such a prior.

    Args:
        task: What is searched.
    """
    study, spec = simulation.new_study(task.table, SamplerSpec(), PrunerSpec(), task.seed)
    inner = optuna.samplers.RandomSampler(seed=task.seed)
    study.sampler = task.asking(PriorSampler(inner, spec.space, spec.base, seed=task.seed))
    return simulation.search(study, spec, task.table, task.rows, task.budget_s)
