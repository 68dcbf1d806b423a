"""Conditions of a search space (`when`) that never hold, so that a setting would never be searched."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from autotune.core.config_paths import get_path
from autotune.search.dimension import Dimension
from autotune.search.space import SearchSpace

_MOST_COMBINATIONS = 4096
"""Combinations of settings to look at. A condition on more is taken to hold somewhere."""


def never_searched(space: SearchSpace, path: str, base: Mapping[str, Any]) -> bool:
    """Return whether the condition of a setting holds for nothing that the search may propose.

    Args:
        space: The search space, each of whose conditions names settings that there are.
        path: The setting.
        base: The nested base config.
    """
    parents = _ancestors(space, path)
    # Only the values that a condition names make a difference, and one other value of each setting.
    named: dict[str, list[Any]] = {parent: [] for parent in parents}
    for child in (path, *parents):
        for parent, wanted in space[child].when.items():
            named.setdefault(parent, []).extend(wanted if isinstance(wanted, tuple) else (wanted,))

    values = {parent: _values(space[parent], named[parent], get_path(base, parent)) for parent in parents}
    if math.prod(map(len, values.values())) > _MOST_COMBINATIONS:
        return False

    for combination in itertools.product(*values.values()):
        proposed = dict(zip(values, combination, strict=True))
        if _is_searched(space, path, proposed, base):
            return False
    return True


def _ancestors(space: SearchSpace, path: str) -> list[str]:
    """Return the searched settings that a setting's condition depends on, in the order of the space."""
    needed = {path}
    for earlier in reversed(list(space)):
        if earlier in needed:
            needed |= space[earlier].when.keys()
    return [earlier for earlier in space if earlier in needed and earlier != path]


def _values(dimension: Dimension, named: list[Any], base_value: Any) -> list[Any]:
    """Return those values of a dimension that conditions name, and one that none names."""
    is_continuous = dimension.choices is None and not dimension.is_integer and dimension.step is None
    possible = [] if is_continuous else [value for value in named if _may_be(dimension, value)]

    others = [value for value in (*dimension.ends(), base_value) if not _is_among(value, possible)]
    return [*possible, *others[:1]]


def _may_be(dimension: Dimension, value: Any) -> bool:
    if dimension.choices is not None:
        return _is_among(value, dimension.choices)
    return dimension.contains(value) and dimension.is_on_grid(value)


def _is_searched(space: SearchSpace, path: str, proposed: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Return whether a setting is searched where others have the proposed values."""
    for name, wanted in space[path].when.items():
        value = get_path(base, name)
        if name in proposed and _is_searched(space, name, proposed, base):
            value = proposed[name]
        if not _is_among(value, wanted if isinstance(wanted, tuple) else (wanted,)):
            return False
    return True


def _is_among(value: Any, others: Any) -> bool:
    """Return whether a value is among others, where true is no 1."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in others)
