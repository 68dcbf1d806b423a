"""What all answers have in common: strict JSON, one object, and the name of what its keys mean."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Part(BaseModel):
    """An object within an answer, whose values are strict JSON: a number that is not finite is null."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        # A field named "schema" would hide a method of pydantic's.
        alias_generator=lambda name: "schema" if name == "schema_name" else name,
        populate_by_name=True,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
        # Further keys may come: a reader that holds answers against the schema must not refuse them.
        json_schema_extra=lambda schema: schema.pop("additionalProperties", None),
    )

    @model_validator(mode="before")
    @classmethod
    def _strict(cls, given: Any) -> Any:
        return strict(given)

    def to_text(self, indent: int | None = 2) -> str:
        """Return it as JSON, in ASCII: names of files may hold bytes that are no characters.

        Args:
            indent: Spaces of a level; None for a single line.
        """
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=indent, allow_nan=False)


class Answer(Part):
    """What a command answers. A further key may come with any version; none goes, or changes its type or meaning,
    without another number at the end of `schema`.
    """

    schema_name: str
    """What the keys mean: "autotune.COMMAND/NUMBER"."""


def strict(value: Any) -> Any:
    """Return a value with null in the place of each number that is not finite, which JSON has not.

    Args:
        value: Anything; mappings, lists and tuples are looked through.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return value
