"""The axis of a metric: its values in the trainer's own sign, and how far it reaches.

An outlier is drawn at its worse end, so that it does not squeeze all other marks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from autotune.core.metric import TEXT_LOSS, Metric

_FENCE = 3.0
"""Interquartile ranges above the upper quartile beyond which a loss is an outlier: Tukey's outer fence (1977)."""
_FEWEST = 5
"""Losses from which quartiles tell an outlier."""
_MARGIN_FRAC = 0.08


@dataclass(frozen=True)
class Scale:
    """The ends of an axis, as losses.

    Args:
        low: The better end.
        high: The worse end.
        is_cut: Whether losses lie above it.
        metric: What is drawn.
    """

    low: float
    high: float
    is_cut: bool = False
    metric: Metric = TEXT_LOSS

    @classmethod
    def of(cls, losses: Iterable[float], keep: Iterable[float] = (), metric: Metric = TEXT_LOSS) -> Scale:
        """Return the scale of losses, with a margin.

        Args:
            losses: Those that are drawn; those that are not finite are left out.
            keep: Losses that are never cut off, such as the default's.
            metric: What is drawn of them.
        """
        found = np.array([loss for loss in losses if math.isfinite(loss)])
        kept = [loss for loss in keep if math.isfinite(loss)]
        if not len(found) and not kept:
            return cls(0.0, 1.0, metric=metric)

        every = [*found, *kept]
        low, high = min(every), max(every)
        top = min(high, max([_fence(found), *kept]))
        inside = [loss for loss in every if loss <= top]
        spread = max(max(inside) - low, 0.01 * abs(low)) or 1e-9
        return cls(low - _MARGIN_FRAC * spread, max(inside) + _MARGIN_FRAC * spread, high > top, metric)

    def place(self, losses: Iterable[float]) -> np.ndarray:
        """Return where losses are drawn, in the metric's own values."""
        return drawn(np.minimum(np.array(list(losses), dtype=float), self.high), self.metric)

    @property
    def range(self) -> list[float]:
        """The ends of the axis in the metric's own values, the lower one first."""
        return sorted(self.metric.values((self.low, self.high)))

    @property
    def note(self) -> str:
        """What a reader is told of the marks at the worse end; "" if there are none."""
        return off_the_scale(self.metric) if self.is_cut else ""


def off_the_scale(metric: Metric) -> str:
    """Return what marks at the worse end of an upright axis mean."""
    end = "bottom" if metric.maximize else "top"
    return f"Marks at the {end} are off the scale."


def drawn(losses: Iterable[float], metric: Metric) -> np.ndarray:
    """Return losses as an axis shows them: in the metric's own values.

    Args:
        losses: NaN where there is none.
        metric: What is drawn of them.
    """
    values: np.ndarray = np.array(metric.values(losses), dtype=float)
    return values


def digits(metric: Metric) -> str:
    """Return how plotly writes a value of a metric, as `Metric.number` does."""
    return ".4f" if metric.of_text else ".5~g"


def _fence(losses: np.ndarray) -> float:
    """Return the loss above which others are outliers; infinite where nothing can be said."""
    if len(losses) < _FEWEST:
        return math.inf

    lower, upper = np.quantile(losses, [0.25, 0.75])
    if upper == lower:
        return math.inf
    return float(upper + _FENCE * (upper - lower))
