"""Why settings cannot be tried: a dimension could not propose them, or the trainer's config refuses them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from autotune.core.config_paths import with_paths
from autotune.core.errors import UserError
from autotune.core.text import shortened, shown
from autotune.search.dimension import Dimension
from autotune.search.space import SearchSpace
from autotune.study.trainer import Trainer

_MOST_BETWEEN = 64
"""Values of one setting that are tried beside the corners of the space."""


def value_error(dimension: Dimension, value: Any) -> str:
    """Return why a dimension could not propose a value, "" if it could.

    Args:
        dimension: What a setting may be.
        value: What a person wants it to be.
    """
    if dimension.is_one_of_its(value):
        return ""

    grid = ""
    if dimension.step:
        grid = f" in steps of {dimension.step}"
    elif dimension.is_integer:
        grid = " in whole numbers"
    return f"{shown(value)} {outside_of(dimension)}{grid}"


def outside_of(dimension: Dimension) -> str:
    """Return the words for a value that a dimension cannot propose."""
    if dimension.choices is not None:
        return f"is not {dimension.describe()}"
    return f"is not within {dimension.describe()}"


def refused_proposal(space: SearchSpace, trainer: Trainer, base: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what a trainer refuses of a space: its corners, and single values of whole numbers and choices are tried.

    Args:
        space: What is searched.
        trainer: The trainer.
        base: The nested base config.

    Returns:
        The setting that is at fault, "" if that is not known, and a sentence; None if nothing is refused.
    """
    proposals = itertools.chain(space.corners(base), _single_values(space))
    for settings in proposals:
        refused = refusal_of(settings, trainer, base)
        if refused is not None:
            path, reason = refused
            words = ", ".join(f"{name} = {shown(value)}" for name, value in settings.items())
            return path, f"the trainer refuses {shortened(words, 300)}, which the search may propose: {reason}"
    return None


def _single_values(space: SearchSpace) -> Iterator[dict[str, Any]]:
    for path, dimension in space.root.items():
        if not dimension.when:
            yield from ({path: value} for value in _between(dimension))


def _between(dimension: Dimension) -> list[Any]:
    """Return values that are no corner: the choices, or the first whole numbers and some spread over the range."""
    if dimension.choices is not None:
        return list(dimension.choices[:_MOST_BETWEEN])
    if not dimension.is_integer or dimension.step is not None:
        return []

    assert isinstance(dimension.low, int) and isinstance(dimension.high, int)
    stride = max(1, (dimension.high - dimension.low) // _MOST_BETWEEN)
    return [*range(dimension.low, dimension.high, stride), min(dimension.low + 1, dimension.high)]


def refusal_of(settings: Mapping[str, Any], trainer: Trainer, base: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return why a trainer's config refuses some settings, None if it takes them.

    Args:
        settings: By dotted path.
        trainer: The trainer.
        base: The nested base config.

    Returns:
        The setting that is at fault, "" if that is not known, and the reason.
    """
    try:
        trainer.complete(with_paths(base, settings))
    except ValidationError as error:
        detail = error.errors()[0]
        message = str(detail["msg"]).removeprefix("Value error, ")
        refused_path = ".".join(map(str, detail["loc"]))
    except UserError as error:
        message = str(error)
        refused_path = ""
    else:
        return None

    named = [path for path in settings if path == refused_path or path.rpartition(".")[2] in message]
    return (named[0] if named else "", message)
