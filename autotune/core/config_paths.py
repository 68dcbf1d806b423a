"""Nested configs, and the dotted paths of their settings."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def get_path(config: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path of a nested config.

    Raises:
        KeyError: With the whole path, if any part of it is missing.
    """
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise KeyError(path)
        value = value[part]
    return value


def with_paths(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy of a nested config with values set at dotted paths that must exist.

    Raises:
        KeyError: With the path, if the config has no such setting.
    """
    result = copy.deepcopy(dict(config))

    for path, value in values.items():
        get_path(result, path)  # raises where the config lacks it

        *parents, leaf = path.split(".")
        section = result
        for part in parents:
            section = section[part]
        section[leaf] = value

    return result


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config as one mapping by dotted path."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{path}."))
        else:
            flat[path] = value
    return flat


def drop_unknown_paths(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those values whose dotted path names a setting of the base config.

    The engine fills in settings that a trainer need not have; a trainer never gets one that it does not know.

    Args:
        base: The nested base config.
        values: Values by dotted path.
    """
    known = flatten(base)
    return {path: value for path, value in values.items() if path in known}
