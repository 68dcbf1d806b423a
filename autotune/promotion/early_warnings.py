"""What looks wrong in a run while there is still time to do something about it: judged by its evaluations alone.

Each function takes what was measured so far and returns a warning, or None. The caller asks again after each evaluation
and passes each kind of warning on once.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.core.metric import Metric
from autotune.core.promotion_results import EarlyWarning
from autotune.core.records import EvalPoint
from autotune.core.text import speed
from autotune.machine.gpu_monitor import HARMFUL_REASONS

_RISEN_FRAC = 0.03
"""Rise of the loss above its best, as a share of the best, that counts as divergence. Between evaluations on the same
held-out tokens a sound loss moves by a few thousandths."""
_IN_A_ROW = 2
"""Number of evaluations in a row that must agree, so that a single outlier gives no alarm."""
_NORM_FACTOR = 10.0
"""Multiple of the median gradient norm that counts as divergence. In sound runs the norm stays within a few times of
its median once the first updates are over."""
_MIN_NORMS = 5
"""Number of gradient norms that must come before one that is judged."""
_PLATEAU_FRAC = 0.2
"""Share of the run over which the loss must stand still."""
_SLOW_FRAC = 0.15
"""Drop in speed, or in the GPU's clock, that counts as slow, as a share of the usual value."""
SLOW_IN_A_ROW = 3
"""Number of evaluations in a row that must be slow. On a busy machine the speed of a single one scatters by more than
`_SLOW_FRAC`."""
SLOW_S = 20.0
"""Shortest time that those evaluations must take together, seconds."""
_MIN_SPEEDS = 8
"""Number of speeds from which the usual one can be told."""
_SKIPPED = 10
"""Number of skipped updates that gives a warning. A loss scale that looks for its level skips one update in thousands,
which is far fewer."""
_SKIPPED_INTERVALS = 3
"""Number of intervals between evaluations that are compared with as many before."""


def divergence(points: Sequence[EvalPoint], metric: Metric) -> EarlyWarning | None:
    """Warn of a loss that has risen clearly above its best, or of gradients far larger than before.

    Args:
        points: Evaluations so far; `grad_norm` among their metrics is looked at where it is reported.
        metric: What the trainer reports.
    """
    action = (
        "if this continues, stop the run and train with a lower learning rate or stronger gradient clipping; "
        "the run ends by itself once it has diverged"
    )
    last = points[-_IN_A_ROW:]
    before = [point.val_loss for point in points[:-_IN_A_ROW]]
    if before:
        best = min(before)
        if all(point.val_loss > best + _RISEN_FRAC * abs(best) for point in last):
            finding = f"{metric.words(last[-1].val_loss)} is clearly worse than its best of {metric.number(best)}"
            return EarlyWarning("divergence", points[-1].tokens_seen, finding, action)

    norms = [point.metrics["grad_norm"] for point in points if "grad_norm" in point.metrics]
    if len(norms) > _MIN_NORMS:
        usual = statistics.median(norms[:-1])
        # A norm that is not a number must count as too large.
        if usual > 0 and not norms[-1] <= _NORM_FACTOR * usual:
            finding = f"the gradient's norm is {norms[-1]:.3g}, and its median so far was {usual:.3g}"
            return EarlyWarning("divergence", points[-1].tokens_seen, finding, action)

    return None


def plateau(
    points: Sequence[EvalPoint], budget_tokens: int, sigma: float | None, metric: Metric
) -> EarlyWarning | None:
    """Warn of a loss that no longer falls though the learning rate is at its peak.

    Nothing is said of a trainer that reports no learning rate, nor while that rises or falls: a loss that stands still
    at the peak falls when the rate decays.

    Args:
        points: Evaluations so far; a metric whose name ends in "lr" is the learning rate.
        budget_tokens: Tokens of the whole run.
        sigma: Standard deviation of a loss between seeds in this study, nats per token; None if it was not measured.
        metric: What the trainer reports.
    """
    if sigma is None or not points:
        return None

    rate_names = [name for name in sorted(points[-1].metrics) if name == "lr" or name.endswith("_lr")]
    begin = points[-1].tokens_seen - _PLATEAU_FRAC * budget_tokens
    earlier = [point for point in points if point.tokens_seen <= begin]
    if not rate_names or not earlier:
        return None

    recent = [point for point in points if point.tokens_seen > begin]
    rates = [point.metrics.get(rate_names[0], 0.0) for point in (earlier[-1], *recent)]
    if not min(rates) >= 0.999 * max(rates) > 0:
        return None

    fallen = earlier[-1].val_loss - min(point.val_loss for point in recent)
    if not fallen < sigma:
        return None

    return EarlyWarning(
        "plateau",
        points[-1].tokens_seen,
        f"the {metric.name} improved by {metric.difference(max(0.0, fallen))} over the last fifth of the run, less "
        f"than the {metric.difference(sigma)} by which chance moves it",
        "it will still improve while the learning rate decays, but a longer run gains little: a shorter run, a larger "
        "model or more data would use the time better",
    )


def is_slow(speeds: Sequence[float], seconds: float) -> bool:
    """Return whether a run is plainly slower than in its best quarter, and has been for a while.

    Args:
        speeds: Tokens per second before each evaluation, in their order.
        seconds: What the last `SLOW_IN_A_ROW` evaluations took.
    """
    if len(speeds) < _MIN_SPEEDS or seconds < SLOW_S:
        return False

    return max(speeds[-SLOW_IN_A_ROW:]) < (1 - _SLOW_FRAC) * _best_quarter(speeds)


def throttling(
    tokens_seen: int,
    speeds: Sequence[float],
    seconds: float,
    earlier: Sequence[Mapping[str, Any]] = (),
    now: Sequence[Mapping[str, Any]] = (),
    unit: str = "tokens",
) -> EarlyWarning | None:
    """Warn of a training that has become slower, with the GPU's own reason if it reports one.

    Args:
        tokens_seen: Tokens so far.
        speeds: As for `is_slow`.
        seconds: Likewise.
        earlier: Samples of the GPU's health from before, as `gpu_monitor.GpuSample` has them.
        now: Samples of the time in which it was slow.
        unit: What a training counts.
    """
    if not is_slow(speeds, seconds):
        return None

    usual = _best_quarter(speeds)
    present = statistics.fmean(speeds[-SLOW_IN_A_ROW:])
    finding = (
        f"it trains at {speed(present, unit)}, {1 - present / usual:.0%} below the best quarter of this run "
        f"({speed(usual, unit)})"
    )

    clock_before = _clock(earlier)
    clock_now = _clock(now)
    if clock_before is not None and clock_now is not None and clock_now < (1 - _SLOW_FRAC) * clock_before:
        finding += f"; the GPU's clock fell from {clock_before / 1e6:.0f} to {clock_now / 1e6:.0f} MHz"

    reported = itertools.chain.from_iterable(sample.get("throttle_reasons") or () for sample in now)
    reasons = [reason for reason in reported if reason in HARMFUL_REASONS]
    if reasons:
        finding += f"; the GPU reports {statistics.mode(reasons)}"
        action = "improve the cooling or the power supply; nothing is lost, it only takes longer"
    else:
        action = "see what else uses this machine (autotune doctor); nothing is lost, it only takes longer"

    return EarlyWarning("throttling", tokens_seen, finding, action)


def skipped_optimizer_steps(points: Sequence[EvalPoint]) -> EarlyWarning | None:
    """Warn of fp16 updates that overflow more and more often.

    Args:
        points: Evaluations so far; `skipped_steps` among their metrics counts from the beginning of the run.
    """
    counts = [point.metrics["skipped_steps"] for point in points if "skipped_steps" in point.metrics]
    skipped = [after - before for before, after in itertools.pairwise(counts)]
    last = skipped[-_SKIPPED_INTERVALS:]
    before = skipped[-2 * _SKIPPED_INTERVALS : -_SKIPPED_INTERVALS]

    is_rising = len(before) == _SKIPPED_INTERVALS and min(last) > 0 and sum(last) > 2 * sum(before)
    if not is_rising or sum(last) < _SKIPPED:
        return None

    return EarlyWarning(
        "skipped steps",
        points[-1].tokens_seen,
        f"{sum(last):.0f} updates overflowed in fp16 and were skipped over the last {_SKIPPED_INTERVALS} evaluations, "
        f"{sum(before):.0f} over the {_SKIPPED_INTERVALS} before",
        "this is often the first sign of a learning rate that is too high: watch the loss; bf16 or fp32 "
        "avoids such overflows where the GPU supports it",
    )


def _best_quarter(speeds: Sequence[float]) -> float:
    best = sorted(speeds, reverse=True)
    return statistics.fmean(best[: math.ceil(len(best) / 4)])


def _clock(samples: Sequence[Mapping[str, Any]]) -> float | None:
    clocks = [sample["sm_clock_hz"] for sample in samples if sample.get("sm_clock_hz")]
    return statistics.median(clocks) if clocks else None
