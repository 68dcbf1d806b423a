"""The final loss that a trial is expected to reach, learned from the trials of its study that have ended.

A Bayesian linear regression of the final loss on the loss at the same tokens (Bishop 2006, section 3.3). Early losses
tell little, so the prior of its slope grows from 0 at the beginning to 1. `SLOPE` and `RESIDUAL_FRAC` were measured on
the 320 whole trials of tests/benchmarks/overnight_h100.json; they count for as long as a study has few trials of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SLOPE = 1.6
"""Expected slope of the final loss over the early one, divided by the share of the budget; the slope is at most 1."""
SLOPE_SIGMA = 0.5
"""Standard deviation of a study's own slope around the expected one."""
RESIDUAL_FRAC = 0.08
"""Standard deviation of the final loss around the regression, as a share of the descent that is still to come."""


@dataclass(frozen=True)
class _Line:
    """A regression of final losses on losses at the same tokens; all in nats per token but the slope."""

    mean_loss: float
    mean_final: float
    slope: float

    def at(self, loss: float) -> float:
        return self.mean_final + self.slope * (loss - self.mean_loss)


class Forecaster:
    """What the finished trials of a study tell about the end of others.

    Args:
        finished: Losses by tokens of trials that ran to their end, nats per token.
    """

    def __init__(self, finished: Sequence[Mapping[int, float]]) -> None:
        self._finished = [(curve, curve[max(curve)]) for curve in finished]
        self._lines: dict[int, _Line | None] = {}

    def final_loss(self, tokens: int, loss: float) -> float | None:
        """Return the final loss that a trial is expected to have, nats per token.

        Args:
            tokens: Its training tokens so far.
            loss: Its loss there, nats per token.

        Returns:
            None if no finished trial was evaluated at the same tokens.
        """
        # Most trials of a search are stopped at one of a few places.
        if tokens not in self._lines:
            self._lines[tokens] = self._line(tokens)

        line = self._lines[tokens]
        return None if line is None else line.at(loss)

    def _line(self, tokens: int) -> _Line | None:
        curves = [(curve, final) for curve, final in self._finished if tokens in curve]
        if not curves:
            return None

        end_tokens = max(curves[0][0])
        losses = np.array([curve[tokens] for curve, _ in curves])
        finals = np.array([final for _, final in curves])
        mean_loss = float(losses.mean())
        mean_final = float(finals.mean())

        prior_slope = min(1.0, SLOPE * tokens / end_tokens)
        residual_sigma = RESIDUAL_FRAC * max(mean_loss - mean_final, 1e-6)
        prior_weight = (residual_sigma / SLOPE_SIGMA) ** 2

        # The posterior mean of the slope: least squares with the prior as one more equation.
        centred = losses - mean_loss
        precision = float(centred @ centred) + prior_weight
        slope = (float(centred @ (finals - mean_final)) + prior_slope * prior_weight) / precision
        return _Line(mean_loss, mean_final, slope)
