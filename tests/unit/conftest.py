"""Shared by all unit tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _quiet_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
