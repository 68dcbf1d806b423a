"""A model of a table: curves and speeds of any settings, interpolated between its rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.core.errors import UserError
from autotune.core.records import TrialStatus
from autotune.replay.sources import Positions
from autotune.replay.table import Row, Table
from autotune.search.pruning import rank_correlations

# Parts of the rows that cross-validation leaves out in turn.
_FOLDS = 10
# Share of the curves' variance that the components keep.
_EXPLAINED_FRAC = 0.9995
# Tried in cross-validation; without any smoothing, settings that were trained twice would be singular.
_SMOOTHINGS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


class Surrogate:
    """Curves and speeds of any settings, interpolated between the rows that finished.

    The curves are taken apart into a few components, and each component and the logarithm of the speed are
    interpolated by cubic radial functions of the settings (Duchon 1977; scipy's `RBFInterpolator`); smoothing and
    error come from cross-validation.

    Args:
        table: At least 20 finished rows, and more for more than 9 settings.

    Attributes:
        best: Lowest final loss that it has for the table's own settings, nats per token.
        error: Root mean squared error of the final loss on rows left out, nats per token.
        rank_correlation: Spearman's between those predictions and what was measured.

    Raises:
        UserError: If too few rows finished.
    """

    def __init__(self, table: Table) -> None:
        rows = table.finished()
        needed = 2 * max(_FOLDS, len(table.spec.space) + 1)
        if len(rows) < needed:
            raise UserError(f"a surrogate needs {needed} finished rows, and the table has {len(rows)}; record more")

        self._positions = Positions(table)
        self._set_up_s = statistics.median(row.set_up_s for row in rows)
        self._eval_s = statistics.median(row.eval_s for row in rows)

        points = np.array([self._positions.of(row.params) for row in rows])
        curves = np.array([row.losses for row in rows])
        log_speeds = np.array([math.log(row.tokens_per_s) for row in rows])

        self._components = _Components.of(curves)
        targets = np.column_stack([self._components.weights(curves), log_speeds])

        self.error, self.rank_correlation, smoothing = self._cross_validate(points, targets, curves[:, -1])
        self._interpolate = _interpolator(points, targets, smoothing)
        self.best = float(self._final_losses(self._interpolate(points)).min())

    def _cross_validate(
        self, points: np.ndarray, targets: np.ndarray, measured: np.ndarray
    ) -> tuple[float, float, float]:
        """Return the smallest error of the final loss, and the rank correlation and the smoothing that go with it."""
        folds = np.random.default_rng(0).permutation(len(points)) % _FOLDS
        tried = []

        for smoothing in _SMOOTHINGS:
            predicted = np.empty(len(points))
            for fold in range(_FOLDS):
                left_out = folds == fold
                interpolate = _interpolator(points[~left_out], targets[~left_out], smoothing)
                predicted[left_out] = self._final_losses(interpolate(points[left_out]))

            error = float(np.sqrt(np.mean((predicted - measured) ** 2)))
            agreement = rank_correlations(np.column_stack([predicted, measured]))[0]
            tried.append((error, agreement, smoothing))

        return min(tried)

    def _final_losses(self, values: np.ndarray) -> np.ndarray:
        return self._components.curves(values)[:, -1]

    def take(self, params: Mapping[str, Any]) -> Row:
        """Return the expected row of any settings.

        Args:
            params: Settings by dotted path; those that are missing are at their base value.
        """
        values = self._interpolate(self._positions.of(params)[None])
        curve = self._components.curves(values)[0]
        tokens_per_s = math.exp(float(values[0, -1]))
        return Row(params, TrialStatus.FINISHED, tuple(map(float, curve)), tokens_per_s, self._eval_s, self._set_up_s)


@dataclass(frozen=True)
class _Components:
    """The few shapes that curves are sums of.

    Args:
        mean: The mean curve.
        shapes: A row for each component.
    """

    mean: np.ndarray
    shapes: np.ndarray

    @classmethod
    def of(cls, curves: np.ndarray) -> _Components:
        """Return the components that explain the curves, one curve a row."""
        mean = curves.mean(axis=0)
        _, sizes, shapes = np.linalg.svd(curves - mean, full_matrices=False)
        # Equal curves have no variance at all, and nothing may be divided by zero.
        explained = np.cumsum(sizes**2) / max(np.sum(sizes**2), np.finfo(float).tiny)
        kept = int(np.searchsorted(explained, _EXPLAINED_FRAC)) + 1
        return cls(mean, shapes[:kept])

    def weights(self, curves: np.ndarray) -> np.ndarray:
        """Return how much of each component is in each curve."""
        weights: np.ndarray = (curves - self.mean) @ self.shapes.T
        return weights

    def curves(self, values: np.ndarray) -> np.ndarray:
        """Return the curves of weights; columns beyond the components are ignored."""
        curves: np.ndarray = self.mean + values[:, : len(self.shapes)] @ self.shapes
        return curves


def _interpolator(points: np.ndarray, targets: np.ndarray, smoothing: float) -> Callable[[np.ndarray], np.ndarray]:
    from scipy.interpolate import RBFInterpolator

    # A setting that never changes among these points would make the linear part singular: take the space they span.
    centre = points.mean(axis=0)
    _, sizes, axes = np.linalg.svd(points - centre, full_matrices=False)
    axes = axes[sizes > 1e-9 * max(sizes.max(), 1.0)]

    if not len(axes):
        return lambda wanted: np.repeat(targets.mean(axis=0)[None], len(wanted), axis=0)

    fit = RBFInterpolator((points - centre) @ axes.T, targets, smoothing=smoothing, kernel="cubic")

    def interpolate(wanted: np.ndarray) -> np.ndarray:
        values: np.ndarray = fit((wanted - centre) @ axes.T)
        return values

    return interpolate
