"""Samplers whose proposals are rows of a table: what they maximise is maximised over the rows that are left.

A proposal that becomes its nearest row is another one than the sampler meant, which costs a sampler with a model more
than one that draws at random. Here nothing is lost on the way.

TPE weighs all rows left, not 24 drawn by its good density as it does in a continuous space: on four tables with 20
searches each, both took the same time within what seeds make of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna._gp.acqf import BaseAcquisitionFunc
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.trial import FrozenTrial

from autotune.core.errors import UserError
from autotune.replay.sources import Rows
from autotune.search.space import SearchSpace

Settings = Mapping[str, Any]


class PoolSampler(BaseSampler):
    """Proposes rows that are left, as another sampler values them.

    A sampler with a method `choose(study, trial, candidates)`, which returns the index of the best of some settings,
    is asked by it. Optuna's Gaussian process and TPE, also within a wrapper of the engine's, are changed so that they
    weigh the rows left and nothing else. Where a sampler would draw at random, a row is drawn.

    Args:
        inner: The sampler to ask; it belongs to this one from now on.
        rows: The rows.
        space: The space that they are of.
        seed: Of the rows drawn at random and of the order in which rows are shown, which decides ties.

    Raises:
        UserError: If the sampler cannot be asked for rows.
    """

    def __init__(self, inner: BaseSampler, rows: Rows, space: SearchSpace, seed: int) -> None:
        self._inner = inner
        self._rows = rows
        self._distributions = {path: space[path].distribution() for path in space}
        self._rng = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)
        self._candidates: Sequence[Settings] = ()

        layers = _layers(inner)
        self._choose = next((layer.choose for layer in layers if hasattr(layer, "choose")), None)
        if self._choose is None:
            self._restrict(layers[-1], space)

    def _restrict(self, sampler: BaseSampler, space: SearchSpace) -> None:
        """Change a sampler of Optuna's so that it proposes candidates alone."""
        if isinstance(sampler, RandomSampler):
            return

        # A setting that some rows lack would have to be weighed in parts, of which each might choose another row.
        if space.is_conditional:
            raise UserError("the table's space has conditions, and proposals cannot be rows then; use --way nearest")

        # Both are places that Optuna leaves for changes of the search of an acquisition function's best.
        if isinstance(sampler, GPSampler):
            sampler._optimize_acqf = _best_of(lambda: self._candidates)
        elif isinstance(sampler, TPESampler):
            sampler._parzen_estimator_cls = _estimator_of(lambda: self._candidates)
        else:
            raise UserError(
                f"{type(sampler).__name__} cannot be asked for rows; use --way nearest, or the sampler gp, tpe, random"
            )

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space: a row has all settings; see optuna.samplers.BaseSampler."""
        return self._distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a row's settings; see optuna.samplers.BaseSampler."""
        left = [row.params for row in self._rows.left]
        self._candidates = [left[place] for place in self._rng.permutation(len(left))]
        if not left:
            return {}

        if self._choose is not None:
            return dict(self._candidates[self._choose(study, trial, self._candidates)])

        inferred = self._inner.infer_relative_search_space(study, trial)
        proposed = self._inner.sample_relative(study, trial, inferred)
        return proposed or dict(self._candidates[0])

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        """Draw a value at random; asked when no row is left. See optuna.samplers.BaseSampler."""
        return self._independent.sample_independent(study, trial, name, distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """See optuna.samplers.BaseSampler."""
        self._inner.before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        """See optuna.samplers.BaseSampler."""
        self._inner.after_trial(study, trial, state, values)


def _layers(sampler: BaseSampler) -> list[BaseSampler]:
    """Return a sampler and what it wraps, the outermost first."""
    layers = [sampler]
    while (inner := getattr(layers[-1], "_inner", None)) is not None:
        layers.append(inner)
    return layers


def _best_of(
    candidates: Callable[[], Sequence[Settings]],
) -> Callable[[BaseAcquisitionFunc, np.ndarray | None], np.ndarray]:
    """Return what `GPSampler` finds the best of its acquisition function with."""

    def optimize(acquisition: BaseAcquisitionFunc, best_params: np.ndarray | None) -> np.ndarray:
        shown = list(candidates())
        points = acquisition.search_space.get_normalized_params(shown, shown)
        return points[acquisition.eval_acqf_no_grad(points).argmax()]

    return optimize


def _estimator_of(candidates: Callable[[], Sequence[Settings]]) -> type[_ParzenEstimator]:
    """Return a density for `TPESampler` from which the candidates come instead of draws."""

    class OfCandidates(_ParzenEstimator):
        def sample(self, rng: np.random.RandomState, size: int) -> dict[str, np.ndarray]:
            return {
                path: np.array([distribution.to_internal_repr(settings[path]) for settings in candidates()])
                for path, distribution in self._search_space.items()
            }

    return OfCandidates
