"""A trainer's module with a slip in it, for the tests of study files."""

from __future__ import annotations

LIST_OF_SIZES = [1, 2] + UNDEFINED_NAME  # type: ignore[name-defined] # noqa: F821, RUF005
