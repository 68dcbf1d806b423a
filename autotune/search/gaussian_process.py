"""A Gaussian process over settings on the unit cube, with a length for each setting.

Optuna's own is as good and takes ten times as long for a proposal (torch, and one small operation after the other). The
kernel is Matern's with smoothness 5/2 (Rasmussen and Williams 2006, equation 4.17); lengths, scale and noise are those
of the highest posterior density (their section 5.4.1, with priors), found by L-BFGS with the gradient of their equation
5.9. They are found anew only when there are a fifth more points, and by no more than `_MOST_FITTED` of them: between
two of these times, only the points change.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

_LOG_LENGTH = (float(np.log(0.6)), 1.0)
"""Mean and standard deviation of the logarithm of a length before any value is known, in units of the cube's edge."""
_LOG_SCALE = (0.0, 0.7)
"""The same for the kernel's scale, the variance of values that are standardised."""
_LOG_NOISE = (float(np.log(0.05)), 1.0)
"""The same for the variance of what settings do not explain."""
_BOUNDS = ((-4.0, 4.0), (-4.0, 3.0), (-9.0, 2.0))
_JITTER = 1e-8
"""Added to the diagonal, so that points that lie close together can be told apart in float64."""
_GROWTH = 1.2
_MOST_FITTED = 300
"""Points that lengths are found by; the time for it grows with their cube, and more hardly change them."""
_MAX_ITERATIONS = 30


class GaussianProcess:
    """Learns how values depend on points of the unit cube; several threads may ask it at once.

    Args:
        dimensions: Coordinates of a point.
        is_exact: Whether values have no noise, so that settings explain all of them.
    """

    def __init__(self, dimensions: int, is_exact: bool = False) -> None:
        self.dimensions = dimensions
        means = [_LOG_LENGTH[0]] * dimensions + [_LOG_SCALE[0], _LOG_NOISE[0]]
        sigmas = [_LOG_LENGTH[1]] * dimensions + [_LOG_SCALE[1], _LOG_NOISE[1]]
        self._prior_mean = np.array(means)
        self._prior_sigma = np.array(sigmas)
        least_noise = _BOUNDS[2][0]
        noise_bounds = (least_noise, least_noise) if is_exact else _BOUNDS[2]
        self._bounds = [_BOUNDS[0]] * dimensions + [_BOUNDS[1], noise_bounds]

        self._parameters = np.clip(self._prior_mean, *np.transpose(self._bounds))
        """Logarithms of the lengths, the scale and the noise."""
        self._fitted_points = 0

    def fit(self, points: np.ndarray, values: np.ndarray) -> Posterior:
        """Return what the values that are known make likely elsewhere.

        Args:
            points: Within the unit cube, shape (n, dimensions), float64.
            values: Standardised, shape (n,), float64.
        """
        if len(values) >= _GROWTH * self._fitted_points + 1:
            some = np.linspace(0, len(values) - 1, min(len(values), _MOST_FITTED)).astype(int)
            found = minimize(
                self._loss,
                self._parameters,
                args=(points[some], values[some]),
                jac=True,
                method="L-BFGS-B",
                bounds=self._bounds,
                options={"maxiter": _MAX_ITERATIONS},
            )
            self._parameters = found.x
            self._fitted_points = len(values)

        return Posterior(points, values, self._parameters)

    def _loss(self, parameters: np.ndarray, points: np.ndarray, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative logarithm of the posterior density of parameters, up to a constant, and its gradient."""
        scaled = points / np.exp(parameters[: self.dimensions])
        noise = float(np.exp(parameters[-1]))
        kernel, slope = _matern(scaled, scaled, float(np.exp(parameters[-2])))

        try:
            factor = cho_factor(kernel + (noise + _JITTER) * np.eye(len(values)), lower=True, check_finite=False)
        except LinAlgError:
            return 1e10, np.zeros_like(parameters)
        weights = cho_solve(factor, values, check_finite=False)
        inverse = cho_solve(factor, np.eye(len(values)), check_finite=False)
        gradient_of = 0.5 * (inverse - np.outer(weights, weights))

        from_prior = (parameters - self._prior_mean) / self._prior_sigma
        loss = 0.5 * values @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * from_prior @ from_prior

        # The derivative by the logarithm of a length is `slope` times the squared distance in that coordinate.
        weighted = gradient_of * slope
        by_lengths = 2 * (weighted.sum(axis=1) @ scaled**2 - (scaled * (weighted @ scaled)).sum(axis=0))
        by_scale = (gradient_of * kernel).sum()
        by_noise = np.trace(gradient_of) * noise

        return float(loss), np.concatenate([by_lengths, [by_scale, by_noise]]) + from_prior / self._prior_sigma


class Posterior:
    """Values that are known, and what they make likely elsewhere.

    Args:
        points: Where they are known, shape (n, dimensions), float64.
        values: Shape (n,), float64.
        parameters: Logarithms of the lengths, the scale and the noise.
    """

    def __init__(self, points: np.ndarray, values: np.ndarray, parameters: np.ndarray) -> None:
        self._lengths = np.exp(parameters[:-2])
        self._scale = float(np.exp(parameters[-2]))
        noise = float(np.exp(parameters[-1])) + _JITTER

        self._points = points / self._lengths
        covariance = _matern(self._points, self._points, self._scale)[0] + noise * np.eye(len(values))
        self._factor = cho_factor(covariance, lower=True, check_finite=False)
        self._weights = cho_solve(self._factor, values, check_finite=False)

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the standard deviation of the values at points, without the noise.

        Args:
            points: Within the unit cube, shape (m, dimensions), float64.

        Returns:
            Two arrays of shape (m,), float64.
        """
        covariance, _ = _matern(points / self._lengths, self._points, self._scale)
        explained = solve_triangular(self._factor[0], covariance.T, lower=True, check_finite=False)
        variance = self._scale - (explained**2).sum(axis=0)

        return covariance @ self._weights, np.sqrt(np.maximum(variance, 1e-10))


def _matern(first: np.ndarray, second: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return Matern's kernel with smoothness 5/2 between points in units of their lengths, and its slope.

    Args:
        first: Shape (n, dimensions).
        second: Shape (m, dimensions).
        scale: The variance.

    Returns:
        The kernel and its derivative by the squared distance, times -2; both of shape (n, m).
    """
    squared = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None] - 2 * first @ second.T
    distance = np.sqrt(5 * np.maximum(squared, 0.0))
    decay = scale * np.exp(-distance)

    return decay * (1 + distance + distance**2 / 3), decay * (1 + distance) * 5 / 3
