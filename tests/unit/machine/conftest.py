"""Every GPU of the machine, or of the fake driver, is visible unless a test says otherwise."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def all_gpus_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
