"""Ranges of so many values that a Gaussian process takes them as continuous.

Optuna's Gaussian process lists every value of a range of whole numbers or with a step: 8 GB for 10^9 of them. From some
hundreds on neighbours are as good as equal, and a proposal of the continuous range is rounded to its nearest value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

MAX_LISTED = 1_000
"""The most values of a range that are listed."""


def as_continuous(search_space: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """Return a space in which ranges of more than `MAX_LISTED` values are continuous.

    Args:
        search_space: Distributions by dotted path.
    """
    return {path: _continuous(distribution) for path, distribution in search_space.items()}


def _continuous(distribution: BaseDistribution) -> BaseDistribution:
    if not isinstance(distribution, IntDistribution | FloatDistribution) or not distribution.step:
        return distribution

    num_values = (distribution.high - distribution.low) / distribution.step + 1
    if num_values <= MAX_LISTED:
        return distribution
    return FloatDistribution(float(distribution.low), float(distribution.high), log=distribution.log)


def on_grid(values: Mapping[str, Any], search_space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return proposals of a continuous space as values of the space itself.

    Args:
        values: By dotted path.
        search_space: The space's own distributions, by dotted path.
    """
    return {path: _nearest(value, search_space[path]) for path, value in values.items()}


def _nearest(value: Any, distribution: BaseDistribution) -> Any:
    if not isinstance(distribution, IntDistribution | FloatDistribution) or not distribution.step:
        return value

    index = round((value - distribution.low) / distribution.step)
    nearest = distribution.low + index * distribution.step
    return min(max(nearest, distribution.low), distribution.high)
