"""Functions that are no trainers, for the tests of study files."""

from __future__ import annotations

LENGTH = 3


def train(config, budget_tokens, report):  # type: ignore[no-untyped-def]
    """Does not say what its config is."""
