"""Quantiles and the confidence that intervals have."""

from __future__ import annotations

CONFIDENCE = 0.95


def student_quantile(share: float, freedom: int) -> float:
    """Returns the value below which a share of Student's t distribution lies.

    Args:
        share: Between 0 and 1.
        freedom: Degrees of freedom.
    """
    # What scipy.stats.t.ppf calls as well; all of scipy.stats takes more than half a second to import.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))
