"""Where the lowest loss lies over the multiples of a setting: a power law of the length, corrected by measured losses.

The best value of a learning rate or a batch moves with the length of a run as a power of it. The power, and whether the
trial's own value was the best of its length, are guesses at first. Losses at lower and higher values, at two lengths,
correct both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.core.promotion_results import Scaling
from autotune.core.statistics import normal_reach

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LEAST_CURVATURE = 0.003
"""Minimum relative curvature; anything flatter is not a minimum. It is the coefficient of the squared natural logarithm
of the factor, as a share of the loss. Brackets of learning rates on prose gave 0.01 to 0.04, batches 0.01 to 0.05
(tests/benchmarks/RESULTS.md)."""
_GRID_SDS = 4.0
"""Reach of the grid to each side of the prior mean, in standard deviations of the prior."""
_GRID_POINTS = 161
"""Points of the grid along each of its two axes."""
_NEAR = 3
"""Losses about the lowest that count: farther off a valley is no parabola."""
_MIN_SIGMA = 1e-5
"""Lower limit of the noise between seeds, nats per token; a smaller measured value is raised to it."""


@dataclass(frozen=True)
class Law:
    """What is known of a setting's best value before anything is measured: a normal prior of each number.

    Args:
        exponent: Power of the length by which the best value grows; below 0 where it falls.
        exponent_sd: Its standard deviation.
        own_sd: Standard deviation of the distance from a winner's value to the best one of the trial's length, as a
            natural logarithm.
        own: Mean of that distance.
    """

    exponent: float
    exponent_sd: float
    own_sd: float
    own: float = 0.0


@dataclass(frozen=True)
class Valley:
    """The losses of one length over several multiples of a setting.

    Args:
        tokens: Length of each training.
        factors: Multiples of the trial's value, rising.
        losses: Final losses, nats per token; None where a training did not finish.
    """

    tokens: int
    factors: Sequence[float]
    losses: Sequence[float | None]


def posterior(law: Law, trial_tokens: int, tokens: int, valleys: Sequence[Valley] = (), sigma: float = 0.0) -> Scaling:
    """Return by how much to multiply a setting for a run of so many tokens.

    With m the logarithm of the best factor at the trial's own length and b the exponent, the best one at r times that
    length is m + b ln r. Both have a normal prior, the losses of each length are noise about a valley there, and the
    answer is the posterior mean, summed over a grid.

    Args:
        law: The prior.
        trial_tokens: Length of the trial.
        tokens: Length of the run.
        valleys: What was measured.
        sigma: Standard deviation of a loss between seeds, nats per token.
    """
    import numpy as np

    deviations = np.linspace(-_GRID_SDS, _GRID_SDS, _GRID_POINTS)
    own, exponent = np.meshgrid(law.own + law.own_sd * deviations, law.exponent + law.exponent_sd * deviations)

    log_posterior = -(deviations[:, None] ** 2 + deviations**2) / 2
    for valley in valleys:
        best = own + exponent * math.log(valley.tokens / trial_tokens)
        log_posterior = log_posterior + _log_likelihood(valley, best, sigma)

    # The largest weight is 1, so that the exponential neither overflows nor vanishes everywhere.
    weights = np.exp(log_posterior - log_posterior.max())

    def moments(values: NDArray[np.float64]) -> tuple[float, float]:
        mean = float(np.average(values, weights=weights))
        variance = float(np.average((values - mean) ** 2, weights=weights))
        return mean, math.sqrt(variance)

    log_factor, spread = moments(own + exponent * math.log(tokens / trial_tokens))
    reach = normal_reach() * spread

    return Scaling(math.exp(log_factor), math.exp(log_factor - reach), math.exp(log_factor + reach), *moments(exponent))


def _log_likelihood(valley: Valley, best: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Return how well the losses fit a valley about each of several places, up to a constant.

    Over the logarithm of the factor a valley is a parabola near its lowest point, here of any height, and of the
    curvature that fits best. If the noise is larger than the differences between the losses, they fit a valley at any
    place.

    Args:
        valley: Factors and the losses that they gave.
        best: Natural logarithms of factors, of any shape.
        sigma: Standard deviation of a loss between seeds, nats per token.
    """
    import numpy as np

    measured = zip(valley.factors, valley.losses, strict=True)
    known = [(math.log(factor), loss) for factor, loss in measured if loss is not None]
    if len(known) < 2:
        return np.zeros_like(best)

    lowest = min(range(len(known)), key=lambda place: known[place][1])
    start = max(0, min(lowest - 1, len(known) - _NEAR))
    log_factors, losses = np.array(known[start : start + _NEAR]).T
    shape = (log_factors - best[..., None]) ** 2
    shape -= shape.mean(-1, keepdims=True)
    height = losses.mean()
    residuals = losses - height

    # Least squares for the curvature; the smallest positive number avoids a division by zero.
    fitting = (shape @ residuals) / np.maximum((shape**2).sum(-1), np.finfo(float).tiny)
    curvature = np.maximum(fitting, _LEAST_CURVATURE * abs(height))
    misfit = ((residuals - curvature[..., None] * shape) ** 2).sum(-1)

    log_likelihood: NDArray[np.float64] = -misfit / (2 * max(sigma, _MIN_SIGMA) ** 2)
    return log_likelihood
