"""The fake trainer with its work counted: only the number of experts changes what a step costs."""

from __future__ import annotations

from collections.abc import Mapping

from fake_trainer import FakeConfig
from fake_trainer import train as train


def counts(config: FakeConfig, facts: Mapping[str, object]) -> dict[str, float]:
    """Counts the work of a step."""
    assert facts["data_hash"] == "fake"
    return {"step_flops": 1e6 * config.experts}
