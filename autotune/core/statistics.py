"""Quantiles and the confidence that intervals have."""

from __future__ import annotations

from statistics import NormalDist

CONFIDENCE = 0.95
"""Share of the intervals that contain the true value; it decides what is called better."""
INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"
"""What an interval of that confidence is called in a sentence."""


def student_quantile(share: float, freedom: int) -> float:
    """Return the value below which a share of Student's t distribution lies.

    Args:
        share: Between 0 and 1.
        freedom: Degrees of freedom.
    """
    # scipy.stats.t.ppf calls this as well, but importing all of scipy.stats takes more than half a second.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def normal_reach() -> float:
    """Return the standard deviations to either side of a normal mean that hold `CONFIDENCE` of the distribution."""
    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
