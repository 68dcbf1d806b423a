"""What NVML reports: visible GPUs, their identity and their processes."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pynvml
import pytest
from fake_nvml import FakeNvml

from autotune.machine import nvml

GIB = 2**30


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (None, [0, 1]),
        ("1", [1]),
        ("1,0", [1, 0]),
        (" 1 , 0 ", [1, 0]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,7,1", [0]),  # CUDA hides everything after an invalid entry
        ("GPU-bbbb", [1]),
        ("GPU-", []),  # ambiguous
        ("MIG-cccc", [1]),
        ("MIG-gone", []),
    ],
)
def test_visible_devices_follow_cuda(monkeypatch: pytest.MonkeyPatch, listed: str | None, expected: list[int]) -> None:
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    fake = FakeNvml()
    assert nvml.visible_devices(fake) == expected
    assert fake.open_sessions == 0


def test_mig_slice_is_pinned_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-cccc")
    assert [(gpu.index, gpu.uuid) for gpu in nvml.visible_gpus(FakeNvml())] == [(1, "MIG-cccc")]


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_no_driver_means_no_devices(code: int) -> None:
    fake = FakeNvml()
    fake.failures["nvmlInit"] = code
    assert nvml.visible_devices(fake) == []


def test_broken_driver_is_an_error_with_the_way_out() -> None:
    fake = FakeNvml()
    fake.failures["nvmlInit"] = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    with pytest.raises(nvml.NvmlError, match="updated while the machine was running: restart"):
        nvml.visible_devices(fake)


def test_missing_readings_of_an_identity_are_zero() -> None:
    fake = FakeNvml()
    fake.failures["nvmlDeviceGetEnforcedPowerLimit"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    assert nvml.visible_gpus(fake)[0].power_limit_w == 0.0


def test_other_processes_leave_us_out() -> None:
    fake = FakeNvml(uuids=("GPU-aaaa-1",))
    fake.processes = [
        SimpleNamespace(pid=os.getpid(), usedGpuMemory=GIB),
        SimpleNamespace(pid=1, usedGpuMemory=2 * GIB),
        SimpleNamespace(pid=2, usedGpuMemory=None),
    ]
    expected = [nvml.GpuProcess(0, 1, 2 * GIB), nvml.GpuProcess(0, 2, None)]
    assert nvml.other_gpu_processes(fake) == expected
