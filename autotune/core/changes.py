"""What has changed in a long list since it was seen last."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence


def changed_places(before: Sequence[object], now: Sequence[object]) -> list[int]:
    """Return the places of a list at which there are other objects than before, in order.

    Of thousands that stayed, none is touched by Python's own loop.

    Args:
        before: The list as it was.
        now: The list as it is, which may have grown.
    """
    others = itertools.compress(itertools.count(), map(operator.is_not, before, now))
    return [*others, *range(len(before), len(now))]
