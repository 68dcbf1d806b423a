"""How numbers, times and foreign text are written in a report.

Everything that a study file, a trainer or a log brought along passes through `plain`, and through `label` where
plotly draws it: plotly reads a few HTML tags in its texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from autotune.core import text

MISSING = "not reported"
_NAMED_LENGTH = 300
# C0 and C1 control characters but tab and newline, and the marks that turn the direction of writing.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MARKDOWN = re.compile(r"([\\`*_\[\]|#])")


def plain(words: object, length: int = _NAMED_LENGTH) -> str:
    """Return foreign text as one short line without control characters.

    Args:
        words: Anything; its `str` is taken.
        length: Characters kept, > 0; what is cut off is marked with an ellipsis.
    """
    readable = _CONTROL.sub("\ufffd", str(words))
    readable = _SURROGATE.sub("\ufffd", readable)
    line = " ".join(readable.split())

    if len(line) <= length:
        return line
    return line[: length - 1] + "…"


def label(words: object) -> str:
    """Return foreign text for plotly, which would read `<a>`, `<b>`, `&lt;` and `%{x}` in it."""
    escaped = _without_tags(plain(words, 80))
    return escaped.replace("%{", "%\u200b{")


def markdown(words: object, length: int = _NAMED_LENGTH) -> str:
    """Return foreign text for Markdown, cut to a length: no HTML, no links, no table bars."""
    escaped = _MARKDOWN.sub(r"\\\1", plain(words, length))
    return _without_tags(escaped)


def _without_tags(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def finite(value: object) -> float | None:
    """Return a number as float, or None if it is missing, not a number or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def or_nan(value: float | None) -> float:
    """Return a number, or NaN where there is none, as tables have it."""
    if value is None:
        return math.nan
    return value


def metric(metrics: Mapping[str, Any], name: str) -> float | None:
    """Return a finite metric by name, or None."""
    return finite(metrics.get(name))


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with fixed digits after the point, or "not reported"."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.{digits}f}"


def as_sentence(words: str) -> str:
    """Return words with a capital letter first and a full stop at the end."""
    return f"{words[:1].upper()}{words[1:].removesuffix('.')}."


def percent(frac: float | None, digits: int = 1) -> str:
    """Return a fraction as a percentage, or "not reported"."""
    if frac is None or not math.isfinite(frac):
        return MISSING
    return f"{100 * frac:.{digits}f} %"


def change_size(amount: float) -> str:
    """Return the size of a change in per cent or points: one place after the point, and never 0.0 of one that is there.

    Args:
        amount: The change.
    """
    shown = f"{abs(amount):,.1f}"
    return f"{abs(amount):.1g}" if amount and shown == "0.0" else shown


def signed_percent(frac: float) -> str:
    """Return a change as a percentage with its sign: "−7.6 %"."""
    sign = "\N{MINUS SIGN}" if frac < 0 else "+"
    return f"{sign}{change_size(100 * frac)} %"


def setting(value: object) -> str:
    """Return a setting's value as a person would write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return text.short_number(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return MISSING if value is None else plain(value, 80)


def count(amount: int, noun: str, plural: str = "") -> str:
    """Return "1 trial" or "3 trials"."""
    if amount == 1:
        return f"{amount:,} {noun}"

    several = plural or f"{noun}s"
    return f"{amount:,} {several}"


def was_or_were(amount: int) -> str:
    """Return "1 was" or "3 were"."""
    verb = "was" if amount == 1 else "were"
    return f"{amount:,} {verb}"


def duration(seconds: float | None) -> str:
    """Return seconds in the unit that a person would use, or "not reported"."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    return text.duration(seconds)


def moment(unix_s: object) -> str:
    """Return a stored moment, seconds since 1970, as weekday and time, or "–" if it is none."""
    try:
        return text.moment(float(str(unix_s)))
    except (ValueError, OverflowError, OSError):
        return "–"


def tokens(amount: float | None, unit: str = "tokens") -> str:
    """Return a number of tokens, or of what else a budget counts, with K, M or B."""
    if amount is None or not math.isfinite(amount):
        return MISSING

    # What is rounded up to a thousand of one letter is one of the next.
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if amount >= 0.9995 * size:
            return f"{float(f'{amount / size:.3g}'):,g}{letter} {unit}"

    return f"{amount:.0f} {unit}"


def gibibytes(amount_bytes: float | None) -> str:
    """Return bytes as GiB."""
    if amount_bytes is None or not math.isfinite(amount_bytes):
        return MISSING
    return f"{amount_bytes / 2**30:.1f} GiB"


def local_time(iso: str) -> datetime | None:
    """Return an ISO 8601 time in this machine's zone, or None if it is none."""
    try:
        return datetime.fromisoformat(iso).astimezone()
    except (ValueError, OverflowError, OSError):
        return None
