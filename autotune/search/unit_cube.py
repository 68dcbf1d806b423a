"""Settings as points of the unit cube, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

_ONE_HOT = 0.5**0.5
"""Coordinate of the choice that is taken: two different choices are then as far apart as two ends of a range."""

_DIGITS = 12
"""Significant digits of a proposed number."""


class UnitCube:
    """The space of a study, each setting on its own scale from 0 to 1.

    A *position* has one number for each setting, where 0 and 1 are the ends. A *point* is what distances are measured
    between: it has a coordinate for each setting, but one for each choice where choices have no order.

    Args:
        search_space: Distributions by dotted path.
        proposed: Choices that may be proposed, where these are not all, by dotted path.
    """

    def __init__(
        self, search_space: Mapping[str, BaseDistribution], proposed: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        self._axes = {
            path: _axis(distribution, (proposed or {}).get(path)) for path, distribution in search_space.items()
        }

    @property
    def settings(self) -> int:
        """Numbers of a position."""
        return len(self._axes)

    @property
    def dimensions(self) -> int:
        """Coordinates of a point."""
        return sum(axis.dimensions for axis in self._axes.values())

    def positions(self, settings: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return the positions of settings, shape (n, settings), float64.

        Args:
            settings: By dotted path, all of the space's and perhaps others.
        """
        columns = [[axis.position(each[path]) for each in settings] for path, axis in self._axes.items()]
        return np.array(columns, dtype=float).reshape(self.settings, len(settings)).T

    def snapped(self, positions: np.ndarray) -> np.ndarray:
        """Return the nearest positions that have settings: of whole numbers, steps and choices there are only some.

        Args:
            positions: Anywhere, shape (n, settings).
        """
        clipped: np.ndarray = np.clip(positions, 0.0, 1.0)
        columns = [axis.snapped(clipped[:, index]) for index, axis in enumerate(self._axes.values())]
        return np.stack(columns, axis=1)

    def points(self, positions: np.ndarray) -> np.ndarray:
        """Return the points at positions, shape (n, dimensions).

        Args:
            positions: Those of settings, shape (n, settings).
        """
        parts = [axis.coordinates(positions[:, index]) for index, axis in enumerate(self._axes.values())]
        return np.concatenate(parts, axis=1)

    def params(self, position: np.ndarray) -> dict[str, Any]:
        """Return the settings at a position, by dotted path.

        Args:
            position: Shape (settings,).
        """
        return {path: axis.value(float(position[index])) for index, (path, axis) in enumerate(self._axes.items())}


class _Range:
    """A range of numbers."""

    dimensions = 1

    def __init__(self, distribution: FloatDistribution | IntDistribution) -> None:
        self._distribution = distribution
        scale = np.log if distribution.log else np.asarray
        self._scale: Any = scale
        self._low, self._high = float(scale(distribution.low)), float(scale(distribution.high))

    def position(self, value: float) -> float:
        if self._high == self._low:
            return 0.5
        return (float(self._scale(value)) - self._low) / (self._high - self._low)

    def snapped(self, positions: np.ndarray) -> np.ndarray:
        step = self._distribution.step
        if not step or self._high == self._low:
            return positions

        snapped = (self._scale(self._on_grid(self._numbers(positions))) - self._low) / (self._high - self._low)
        return np.asarray(snapped)

    def coordinates(self, positions: np.ndarray) -> np.ndarray:
        return positions[:, None]

    def value(self, position: float) -> float:
        number = self._numbers(np.array([position]))
        if self._distribution.step:
            number = self._on_grid(number)

        # There and back, the logarithm loses a digit, and 0.013999999999999993 would count as a change of 0.014.
        rounded = float(f"{number[0]:.{_DIGITS}g}")
        value = min(max(rounded, self._distribution.low), self._distribution.high)
        return round(value) if isinstance(self._distribution, IntDistribution) else value

    def _numbers(self, positions: np.ndarray) -> np.ndarray:
        scaled = self._low + positions * (self._high - self._low)
        return np.exp(scaled) if self._distribution.log else scaled

    def _on_grid(self, numbers: np.ndarray) -> np.ndarray:
        low, high, step = self._distribution.low, self._distribution.high, self._distribution.step
        assert step
        last = np.floor((high - low) / step + 1e-9)
        return np.asarray(low + np.clip(np.round((numbers - low) / step), 0, last) * step)


class _Choices:
    """A list of choices: in their order if they are numbers, or else each as far from all others."""

    def __init__(self, distribution: CategoricalDistribution, proposed: Sequence[Any] | None) -> None:
        self._choices = distribution.choices
        self._proposed = np.array([self._choices.index(choice) for choice in proposed or self._choices])
        self._last = max(1, len(self._choices) - 1)
        self._is_ordered = all(isinstance(choice, int | float) for choice in self._choices)
        self.dimensions = 1 if self._is_ordered else len(self._choices)

    def position(self, value: Any) -> float:
        return self._choices.index(value) / self._last

    def snapped(self, positions: np.ndarray) -> np.ndarray:
        if len(self._proposed) == len(self._choices):
            return self._indices(positions) / self._last

        distances = np.abs(positions[:, None] * self._last - self._proposed)
        return np.asarray(self._proposed[distances.argmin(axis=1)] / self._last)

    def coordinates(self, positions: np.ndarray) -> np.ndarray:
        if self._is_ordered:
            return positions[:, None]
        return np.where(self._indices(positions)[:, None] == np.arange(len(self._choices)), _ONE_HOT, 0.0)

    def value(self, position: float) -> Any:
        return self._choices[int(self._indices(np.array([position]))[0])]

    def _indices(self, positions: np.ndarray) -> np.ndarray:
        return np.round(positions * self._last).astype(int)


def _axis(distribution: BaseDistribution, proposed: Sequence[Any] | None) -> _Range | _Choices:
    if isinstance(distribution, CategoricalDistribution):
        return _Choices(distribution, proposed)

    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return _Range(distribution)
