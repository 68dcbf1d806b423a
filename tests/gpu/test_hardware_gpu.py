"""The hardware profile, monitor and doctor on a real NVIDIA GPU."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autotune.machine import doctor, measurement, nvml
from autotune.machine.gpu_monitor import GpuMonitor
from autotune.machine.hardware import HardwareProfile

GIB = 2**30

pytestmark = pytest.mark.skipif(not nvml.visible_devices(), reason="no NVIDIA GPU is visible")


@pytest.fixture(scope="module")
def full_profile() -> HardwareProfile:
    return measurement.profile()


def test_profile_is_plausible(full_profile: HardwareProfile) -> None:
    profile = full_profile
    assert profile.device == "cuda"
    assert profile.uuid.startswith(("GPU-", "MIG-"))
    assert profile.count == len(nvml.visible_devices()) >= 1
    assert GIB < profile.memory_bytes < 1000 * GIB
    assert profile.emulate == ""
    assert profile.power_limit_w > 0
    assert 1e8 < profile.sm_clock_hz <= 1.05 * profile.sm_clock_max_hz
    assert 10 < profile.temperature_c < 110
    assert 1e10 < profile.copy_bytes_per_s < 2e13
    assert 0 <= profile.noise < 0.5
    assert profile.cuda_version
    assert profile.driver_version
    assert HardwareProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_half_precision_is_faster_than_full(full_profile: HardwareProfile) -> None:
    flops = full_profile.matmul_flops
    is_new = float(full_profile.capability) >= 8.0

    assert set(flops) == ({"fp32", "fp16", "bf16"} if is_new else {"fp32", "fp16"})
    assert full_profile.dtype == ("bf16" if is_new else "fp16")
    assert full_profile.flash_attention is is_new
    assert 1e12 < flops["fp32"] < flops["fp16"] < 1e16
    assert 0.3 * flops[full_profile.dtype] < full_profile.matmul_flops_warm < 1.5 * flops[full_profile.dtype]


def test_h100_speed(full_profile: HardwareProfile) -> None:
    if "H100" not in full_profile.name:
        pytest.skip("the bounds are an H100's")
    assert 3e14 < full_profile.matmul_flops["bf16"] < 9.9e14  # 989 TFLOP/s on paper
    assert 1.2e12 < full_profile.copy_bytes_per_s < 3.4e12  # 3.35 TB/s on paper for the SXM card


def test_emulated_t4_is_capped() -> None:
    gpu = nvml.visible_gpus()[0]
    if gpu.memory_bytes < 15 * GIB:
        pytest.skip("needs 15 GiB")
    start_s = time.monotonic()
    profile = measurement.profile("t4", quick=True)

    assert time.monotonic() - start_s < 60
    assert profile.memory_bytes <= 15 * GIB
    assert (profile.dtype, profile.flash_attention, profile.emulate) == ("fp16", False, "t4")
    assert profile.overrides()["memory_bytes"] == profile.memory_bytes
    assert profile.matmul_flops_warm == 0.0


def test_profiling_makes_no_cuda_context_here() -> None:
    code = (
        "import os, sys; from autotune.machine import measurement\n"
        "from pathlib import Path\n"
        "assert measurement.profile(quick=True).device == 'cuda'\n"
        "assert 'torch' not in sys.modules\n"
        # A CUDA context opens this device; NVML does not, though it may map libcuda.
        "assert not [file for file in Path('/proc/self/fd').iterdir() if 'nvidia-uvm' in os.path.realpath(file)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_monitor_samples() -> None:
    with GpuMonitor(nvml.visible_devices()[0]) as monitor:
        first = monitor.sample()
        time.sleep(0.5)
        second = monitor.sample()

    assert first is not None, monitor.reason
    assert second is not None, monitor.reason
    assert second.time > first.time
    assert first.temperature_c is not None
    assert 10 < first.temperature_c < 110
    assert first.power_w is None or 5 < first.power_w < 2000
    assert first.utilization_frac is None or 0 <= first.utilization_frac <= 1

    if first.energy_j is not None and second.energy_j is not None:
        assert 0 <= second.energy_j - first.energy_j < 2000
    assert not [reason for reason in first.throttle_reasons if reason.startswith("unknown")]


def test_monitor_of_a_gpu_that_is_not_there() -> None:
    monitor = GpuMonitor(99)
    assert monitor.sample() is None
    assert monitor.reason


def test_doctor_on_a_working_gpu(tmp_path: Path) -> None:
    findings = doctor.diagnose(tmp_path)
    by_subject = {finding.subject: finding for finding in findings}
    assert not [finding for finding in findings if "check itself failed" in finding.message]
    for subject in ("torch", "driver", "capability", "precision"):
        assert by_subject[subject].level == "ok", dataclasses.astuple(by_subject[subject])
    assert any(subject.startswith("gpu ") for subject in by_subject)
