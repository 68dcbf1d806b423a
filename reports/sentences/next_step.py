"""What the next step takes, in words."""

from __future__ import annotations

from autotune.promotion.next_step import NextStep
from reports.formats import duration, finite, gibibytes, percent, tokens


def expected_words(step: NextStep) -> str:
    """Return what the next step is expected to take: "8K tokens, about 27 min, 2.0 GiB of memory", or ""."""
    expected = step.expected
    if expected is None:
        return ""

    parts = [tokens(expected.tokens)] if expected.tokens else []
    if expected.seconds is not None:
        took = f"about {duration(expected.seconds)}"
        if expected.bracket_s:
            share = percent(expected.bracket_s / expected.seconds, 0)
            took += f" ({share} of it for shorter runs that find its settings)"
        parts.append(took)
    elif expected.tokens:
        return f"{tokens(expected.tokens)}; the time is not known"

    peak_bytes = finite(expected.peak_bytes)
    if peak_bytes is not None:
        parts.append(f"{gibibytes(peak_bytes)} of memory")

    return ", ".join(parts)
