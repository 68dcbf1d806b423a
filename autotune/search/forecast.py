"""What a trial that has only begun will end with, by the trials of its study that have ended.

A Bayesian linear regression of the final loss on the loss at the same tokens (Bishop 2006, section 3.3). Early losses
tell little, so its slope is expected to grow from 0 at the beginning to 1: `SLOPE` and `SHARE` are what the 320 whole
trials of tests/benchmarks/overnight_h100.json show, and count as long as a study has few of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SLOPE = 1.6
"""Final loss gained per loss gained at a share of the budget, divided by that share; at most 1 in all."""
SLOPE_SIGMA = 0.5
"""How far a study's own slope may lie from that."""
SHARE = 0.08
"""Standard deviation of the final loss around the regression, as a share of the descent that is still to come."""


def forecast(tokens: int, loss: float, finished: Sequence[Mapping[int, float]]) -> float | None:
    """Returns the final loss that a trial is expected to have, nats per token.

    Args:
        tokens: Its training tokens so far.
        loss: Its loss there, nats per token.
        finished: Losses by tokens of trials that ran to their end.

    Returns:
        None without a trial that was evaluated at the same tokens.
    """
    curves = [curve for curve in finished if tokens in curve]
    if not curves:
        return None
    end = max(curves[0])
    losses = np.array([curve[tokens] for curve in curves])
    finals = np.array([curve[max(curve)] for curve in curves])
    prior_slope = min(1.0, SLOPE * tokens / end)
    prior_sigma = SHARE * max(float(losses.mean() - finals.mean()), 1e-6)
    centred = losses - losses.mean()
    weight = (prior_sigma / SLOPE_SIGMA) ** 2
    precision = float(centred @ centred) + weight
    slope = (float(centred @ (finals - finals.mean())) + prior_slope * weight) / precision
    return float(finals.mean()) + slope * (loss - float(losses.mean()))
