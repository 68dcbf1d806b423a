"""The hardware profile: kept as JSON, and what the engine fills into configs from it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from autotune.machine.hardware import HardwareError, HardwareProfile


def test_profile_survives_json(cpu_profile: HardwareProfile) -> None:
    stored = json.loads(json.dumps(cpu_profile.to_json(), allow_nan=False))
    assert HardwareProfile.from_json(stored) == cpu_profile
    hot = dataclasses.replace(cpu_profile, throttle_reasons=("power cap", "idle"))
    assert HardwareProfile.from_json(json.loads(json.dumps(hot.to_json()))) == hot


def test_stored_profile_with_wrong_keys_is_refused(cpu_profile: HardwareProfile) -> None:
    stored = cpu_profile.to_json()
    del stored["noise"]
    with pytest.raises(HardwareError, match="missing or unknown keys: extra, noise"):
        HardwareProfile.from_json(stored | {"extra": 1})


def test_cpu_overrides(cpu_profile: HardwareProfile) -> None:
    assert cpu_profile.overrides() == {
        "device": "cpu",
        "dtype": "fp32",
        "memory_bytes": 0,
        "flash_attention": False,
    }
