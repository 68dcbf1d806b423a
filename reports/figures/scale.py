"""How far an axis of losses reaches: an outlier is drawn at its end, so that it does not squeeze all other marks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

OFF_THE_SCALE = "Marks at the top are off the scale."
_FENCE = 3.0
"""Interquartile ranges above the upper quartile beyond which a loss is an outlier: Tukey's outer fence (1977)."""
_FEWEST = 5
"""Losses from which quartiles tell an outlier."""
_MARGIN_FRAC = 0.08


@dataclass(frozen=True)
class Scale:
    """The ends of an axis of losses.

    Args:
        low: The lower end.
        high: The upper end.
        is_cut: Whether losses lie above it.
    """

    low: float
    high: float
    is_cut: bool = False

    @classmethod
    def of(cls, losses: Iterable[float], keep: Iterable[float] = ()) -> Scale:
        """Return the scale of losses, with a margin.

        Args:
            losses: Those that are drawn; those that are not finite are left out.
            keep: Losses that are never cut off, such as the default's.
        """
        found = np.array([loss for loss in losses if math.isfinite(loss)])
        kept = [loss for loss in keep if math.isfinite(loss)]
        if not len(found) and not kept:
            return cls(0.0, 1.0)

        every = [*found, *kept]
        low, high = min(every), max(every)
        top = min(high, max([_fence(found), *kept]))
        inside = [loss for loss in every if loss <= top]
        spread = max(max(inside) - low, 0.01 * abs(low), 1e-9)
        return cls(low - _MARGIN_FRAC * spread, max(inside) + _MARGIN_FRAC * spread, high > top)

    def place(self, losses: Iterable[float]) -> np.ndarray:
        """Return where losses are drawn."""
        placed: np.ndarray = np.minimum(np.array(list(losses), dtype=float), self.high)
        return placed

    @property
    def note(self) -> str:
        """What a reader is told of the marks at the top; "" if there are none."""
        return OFF_THE_SCALE if self.is_cut else ""


def _fence(losses: np.ndarray) -> float:
    """Return the loss above which others are outliers; infinite where nothing can be said."""
    if len(losses) < _FEWEST:
        return math.inf

    lower, upper = np.quantile(losses, [0.25, 0.75])
    if upper == lower:
        return math.inf
    return float(upper + _FENCE * (upper - lower))
