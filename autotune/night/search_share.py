"""How much of a night a search is worth, where a full run takes the rest: training longer lowers the loss as well."""

from __future__ import annotations

import math

from scipy.special import wrightomega

_LONGER = 0.1
"""By which share of itself a loss falls for each factor of e in training tokens. Medians over recorded settings of our
own studies that were trained for 4 to 8 times their length: 0.16 (quickstart), 0.12 and 0.10 (prose, read once), 0.06
(prose, read six times)."""
_GAIN = 0.03
"""By which share of the default's loss a search can lower it at all, between what it was on prose (0.9 %) and in the
quickstart (4.7 %) with the first default settings; 3.3 % on prose that is read six times, with the present ones."""
_TRAININGS = 5.0
"""Trainings in which a search gains all but 1 / e of that: on recorded tables it is within 0.5 % of the best after 6 to
13 of them."""


def search_seconds(seconds: float, trial_s: float) -> float:
    """Return how long to search before a full run that takes the rest, so that its loss is expected to be lowest.

    A search of n trainings lowers the loss by the share g (1 - e^(-n / m)), and a run that is shorter by a factor
    raises it by a times the factor's logarithm. Their sum is lowest where g / (m t) e^(-s / (m t)) = a / (T - s), s
    being the seconds of the search, T all seconds and t those of a training. The rest T - s is m t times Wright's omega
    function of T / (m t) + ln(a / g).

    Args:
        seconds: Those of the search and the full run together, >= 0.
        trial_s: Those of one whole trial, or of several that run at once divided by their number, > 0.

    Returns:
        Seconds, less than all of them; 0 where no search is worth its time.
    """
    scale_s = _TRAININGS * trial_s
    run_s = scale_s * float(wrightomega(seconds / scale_s + math.log(_LONGER / _GAIN)))
    return max(0.0, seconds - run_s)
