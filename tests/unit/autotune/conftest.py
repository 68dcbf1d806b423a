"""Makes the fake trainer importable, here and in child processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FAKE_TRAINER = HERE.parents[1] / "integration"

# Spawned workers get their parent's path.
sys.path[:0] = [path for path in (str(FAKE_TRAINER), str(HERE)) if path not in sys.path]


@pytest.fixture(autouse=True)
def _quiet_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
