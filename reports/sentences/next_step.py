"""What the next step takes, in words."""

from __future__ import annotations

from autotune.core.metric import Metric
from autotune.promotion.next_step import NextStep
from reports.formats import duration, finite, gibibytes, percent, plain, tokens


def expected_words(step: NextStep, metric: Metric) -> str:
    """Return what the next step is expected to take: "8K tokens, about 27 min, 2.0 GiB of memory", or "".

    Args:
        step: What is to be done.
        metric: What the study's trainer reports.
    """
    expected = step.expected
    if expected is None:
        return ""

    length = tokens(expected.tokens, plain(metric.budget_unit))
    parts = [length] if expected.tokens else []
    if expected.seconds is not None:
        took = f"about {duration(expected.seconds)}"
        if expected.bracket_s:
            share = percent(expected.bracket_s / expected.seconds, 0)
            took += f" ({share} of it for shorter runs that find its settings)"
        parts.append(took)
    elif expected.tokens:
        return f"{length}; the time is not known"

    peak_bytes = finite(expected.peak_bytes)
    if peak_bytes is not None:
        parts.append(f"{gibibytes(peak_bytes)} of memory")

    return ", ".join(parts)
