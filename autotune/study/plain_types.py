"""Numbers and truth values of a study file, taken as they are written: true is no 1, and "5" is no 5."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, StrictBool

from autotune.core.text import shown
from autotune.search.dimension import refusal


def _whole(value: object) -> object:
    _require_number(value, "a whole number")
    # 1e6 is a customary way to write a million.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _real(value: object) -> object:
    _require_number(value, "a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise refusal(f"must be finite, but it is {value}")
    return value


def _require_number(value: object, words: str) -> None:
    if isinstance(value, bool | str):
        raise refusal(f"must be {words}, but it is {shown(value)}")


Whole = Annotated[int, BeforeValidator(_whole)]
Real = Annotated[float, BeforeValidator(_real)]
Flag = StrictBool
