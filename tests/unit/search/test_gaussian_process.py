"""The Gaussian process against its textbook formulas, written out, and against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from autotune.search.gaussian_process import GaussianProcess


def _data(number: int, dimensions: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    points = random.random((number, dimensions))
    values = np.sin(6 * points[:, 0]) + points[:, 1] ** 2 + 0.05 * random.standard_normal(number)
    return points, (values - values.mean()) / values.std()


def _textbook(process: GaussianProcess, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Matern's kernel, one pair after the other."""
    *logs, log_scale, _ = process._parameters
    lengths = np.exp(logs)

    def kernel(one: np.ndarray, other: np.ndarray) -> float:
        distance = math.sqrt(5) * math.dist(one / lengths, other / lengths)
        return math.exp(log_scale) * (1 + distance + distance**2 / 3) * math.exp(-distance)

    return np.array([[kernel(one, other) for other in second] for one in first])


def test_it_predicts_by_the_textbook() -> None:
    points, values = _data(20)
    process = GaussianProcess(3)
    posterior = process.fit(points, values)
    elsewhere = np.random.default_rng(1).random((5, 3))

    covariance = _textbook(process, points, points) + math.exp(process._parameters[-1]) * np.eye(20)
    between = _textbook(process, elsewhere, points)
    inverse = np.linalg.inv(covariance)
    mean, sigma = posterior.predict(elsewhere)

    assert mean == pytest.approx(between @ inverse @ values, abs=1e-5)
    variance = math.exp(process._parameters[-2]) - np.diag(between @ inverse @ between.T)
    assert sigma == pytest.approx(np.sqrt(variance), abs=1e-5)


def test_its_gradient_is_that_of_finite_differences() -> None:
    points, values = _data(15)
    process = GaussianProcess(3)
    at = np.array([0.1, -0.4, 0.3, 0.2, -2.0])

    _, gradient = process._loss(at, points, values)

    numeric = approx_fprime(at, lambda parameters: process._loss(parameters, points, values)[0], 1e-6)
    assert gradient == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_it_finds_which_settings_matter() -> None:
    points, values = _data(60)
    process = GaussianProcess(3)
    posterior = process.fit(points, values)

    first, _, third = process._parameters[:3]
    assert first < third - 1
    mean, sigma = posterior.predict(points)
    assert np.abs(mean - values).mean() < 0.2
    assert sigma.mean() < 0.3


def test_values_without_noise_are_met() -> None:
    points, values = _data(30)
    process = GaussianProcess(3, is_exact=True)
    posterior = process.fit(points, values)
    assert posterior.predict(points)[0] == pytest.approx(values, abs=0.02)


def test_lengths_are_found_by_some_of_many_points_and_values_known_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.search.gaussian_process._MOST_FITTED", 20)
    points, values = _data(60)
    process = GaussianProcess(3)
    posterior = process.fit(points, values)
    assert np.abs(posterior.predict(points)[0] - values).mean() < 0.3


def test_points_on_top_of_each_other_do_no_harm() -> None:
    points, values = _data(10)
    process = GaussianProcess(3)
    posterior = process.fit(np.concatenate([points, points]), np.concatenate([values, values]))
    assert np.isfinite(posterior.predict(points)[0]).all()
