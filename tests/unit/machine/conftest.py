"""This machine's CPU, measured once; every GPU, real or fake, is visible unless a test says otherwise."""

from __future__ import annotations

import pytest

from autotune.machine.hardware import HardwareProfile
from autotune.machine.measurement import profile


@pytest.fixture(autouse=True)
def all_gpus_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture(scope="package")
def cpu_profile() -> HardwareProfile:
    return profile(quick=True, device="cpu")
