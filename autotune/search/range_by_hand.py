"""Ranges and choices that a person sets while a study runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autotune.core.errors import UserError
from autotune.core.text import shown
from autotune.search.dimension import Dimension


def changed_dimension(before: Dimension, whole: Dimension, values: Sequence[Any]) -> Dimension:
    """Return a dimension with other ends, or with some of its choices.

    Args:
        before: What is searched at present.
        whole: All that was searched so far.
        values: Low and high, or choices.

    Raises:
        ValidationError: If a study file could not have it.
        UserError: If it cannot be had while a study runs.
    """
    if whole.choices is not None:
        unknown = [value for value in values if value not in whole.choices]
        if unknown:
            raise UserError(
                f"{shown(unknown[0])} is not {whole.describe()}; a study goes on with choices that it began with, so "
                "they can become fewer, or as many again"
            )
        chosen = [choice for choice in whole.choices if choice in values]
        if len(chosen) < len(values):
            raise UserError(f"{shown(list(values))} lists a value twice; keep one of each")
        return Dimension.model_validate({**before.model_dump(), "choices": chosen})

    if len(values) != 2:
        raise UserError("it needs a low and a high end, such as 0.01..0.05")
    low, high = (typed(before, value) for value in values)
    if before.is_integer and not (isinstance(low, int) and isinstance(high, int)):
        raise UserError(f"it is searched in whole numbers, but its ends are {shown(low)} and {shown(high)}")

    dimension = Dimension.model_validate({**before.model_dump(), "low": low, "high": high})
    for end in (low, high):
        if not whole.is_on_grid(end):
            raise UserError(f"{shown(end)} is none of the steps of {whole.step} from {whole.low}")
    return dimension


def typed(dimension: Dimension, value: Any) -> Any:
    """Return a value as those of a dimension are: whole numbers, or not; text, true and false stay what they are."""
    if dimension.choices is not None:
        return next(choice for choice in dimension.choices if choice == value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if not dimension.is_integer:
        return float(value)
    return int(value) if value == int(value) else value


def ends_or_choices(dimension: Dimension) -> tuple[Any, ...]:
    """Return low and high of a range, or all choices."""
    return dimension.choices if dimension.choices is not None else (dimension.low, dimension.high)
