"""Measuring a machine: the real CPU, and NVML with its functions replaced."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pynvml
import pytest
from fake_nvml import FakeNvml

from autotune.machine import host, measurement, nvml
from autotune.machine.gpu_monitor import GpuMonitor
from autotune.machine.hardware import HardwareError, HardwareProfile
from autotune.machine.measurement import machine_name

GIB = 2**30


# ---- the profile of this machine's CPU, measured for real ----------------------------------------------------------


def test_cpu_profile_is_plausible(cpu_profile: HardwareProfile) -> None:
    assert (cpu_profile.device, cpu_profile.dtype, cpu_profile.count, cpu_profile.index) == ("cpu", "fp32", 0, -1)
    assert list(cpu_profile.matmul_flops) == ["fp32"]
    assert 1e9 < cpu_profile.matmul_flops["fp32"] < 1e14
    assert 1e8 < cpu_profile.copy_bytes_per_s < 1e13
    assert cpu_profile.matmul_flops_warm == 0.0
    assert 0 <= cpu_profile.noise < 2
    assert cpu_profile.memory_bytes == cpu_profile.ram_bytes > GIB
    assert 1 <= cpu_profile.cpu_count <= (os.cpu_count() or 1)
    assert cpu_profile.name == cpu_profile.cpu_name != ""
    assert cpu_profile.measured_at.endswith("+00:00")


def test_profiling_imports_no_torch_here() -> None:
    code = (
        "import sys; from autotune.machine import doctor, measurement\n"
        "early = {'torch', 'optuna', 'pandas', 'pynvml'} & set(sys.modules); assert not early, early\n"
        "measurement.profile(quick=True, device='cpu'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"emulate": "t4", "device": "cpu"}, "cannot emulate a T4 on the CPU"),
        ({"emulate": "a100", "device": "cpu"}, 'cannot emulate "a100": the only card that can be emulated is "t4"'),
        ({"device": "tpu"}, 'unknown device "tpu"'),
        ({"device": "cpu:1"}, 'unknown device "cpu:1"'),
        ({"device": "cuda:2"}, 'no device "cuda:2": the number of visible NVIDIA GPUs is 2'),
    ],
)
def test_impossible_profiles_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HardwareError, match=message):
        measurement.profile(quick=True, nvml=FakeNvml(), **arguments)


def test_emulation_needs_the_memory() -> None:
    small = FakeNvml(name="NVIDIA GeForce RTX 3060")
    small.memory_bytes = 12 * GIB
    with pytest.raises(HardwareError, match=r"RTX 3060: 12\.0 GiB is less than 15"):
        measurement.profile("t4", nvml=small)


def test_broken_gpu_is_not_silently_a_cpu() -> None:
    broken = FakeNvml()
    broken.failures["nvmlDeviceGetHandleByIndex"] = pynvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(HardwareError, match="GPU stopped answering; run autotune doctor"):
        measurement.profile(nvml=broken)


def test_gpu_that_torch_cannot_use_says_so() -> None:
    """The fake's UUID exists for NVML only: the real child process with the real torch fails on it."""
    with pytest.raises(HardwareError, match=r"could not measure the GPU: torch failed in a child process \(exit 1\)"):
        measurement.profile(quick=True, nvml=FakeNvml())


# ---- assembling a GPU's profile: hand-made answers of the child ----------------------------------------------------


def gpu_profile(emulate: str = "", **changes: Any) -> HardwareProfile:
    fake = FakeNvml(name=changes.pop("name", "NVIDIA H100 80GB HBM3"))
    fake.memory_bytes = changes.pop("memory_bytes", 80 * GIB)
    fake.capability = changes.pop("capability", (9, 0))
    answer = {
        "torch_version": "2.11.0",
        "cuda_version": "13.0",
        "memory_bytes": changes.pop("torch_bytes", fake.memory_bytes),
        "matmul_flops": {"fp32": 5e13, "fp16": 7e14, "bf16": 7.1e14},
        "matmul_flops_warm": 6e14,
        "copy_bytes_per_s": 2.5e12,
        "noise": {"fp32": 0.01, "fp16": 0.02, "bf16": 0.03},
    }
    sample = GpuMonitor(0, fake).sample()
    gpu = nvml.visible_gpus(fake)[0]
    return measurement._assemble(gpu, 2, emulate, answer, sample, measurement._machine_facts())


def test_h100_profile() -> None:
    profile = gpu_profile()
    assert (profile.device, profile.capability, profile.dtype, profile.flash_attention) == ("cuda", "9.0", "bf16", True)
    assert (profile.memory_bytes, profile.count, profile.noise) == (80 * GIB, 2, 0.03)
    assert (profile.power_limit_w, profile.power_default_w, profile.sm_clock_max_hz) == (70.0, 75.0, 1.59e9)
    assert (profile.sm_clock_hz, profile.memory_clock_hz, profile.temperature_c) == (1.215e9, 5e9, 71.0)
    assert profile.throttle_reasons == ("power cap", "thermal (software)")
    assert profile.overrides()["memory_bytes"] == 0
    assert HardwareProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_emulated_t4_has_its_memory_and_type() -> None:
    profile = gpu_profile(emulate="t4")
    assert (profile.memory_bytes, profile.dtype, profile.flash_attention) == (15 * GIB, "fp16", False)
    assert profile.noise == 0.02
    assert profile.overrides() == {
        "device": "cuda",
        "dtype": "fp16",
        "memory_bytes": 15 * GIB,
        "flash_attention": False,
    }


def test_memory_is_what_torch_can_use() -> None:
    t4 = gpu_profile(name="Tesla T4", capability=(7, 5), memory_bytes=15 * GIB, torch_bytes=15_655_829_504)
    assert (t4.memory_bytes, t4.dtype, t4.flash_attention) == (15_655_829_504, "fp16", False)


@pytest.mark.parametrize(("capability", "dtype"), [("", "fp32"), ("7.0", "fp16"), ("7.5", "fp16"), ("8.0", "bf16")])
def test_dtype_by_capability(capability: str, dtype: str) -> None:
    assert measurement.dtype_for(capability) == dtype


def test_capability_ten_is_newer_than_eight() -> None:
    assert measurement.dtype_for("10.0") == measurement.dtype_for("12.0") == "bf16"


def test_no_two_machines_have_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has a machine of another card, of other cores or with another torch; it keeps its own from start to start."""
    names = [machine_name("cpu")]
    assert machine_name("cpu") == names[0] and "/" not in names[0]
    changes: list[tuple[object, str, object]] = [
        (socket, "gethostname", lambda: "pod 1/2"),
        (host, "cpu_name", lambda: "another CPU"),
        (host, "usable_cores", lambda: 1024),
        (measurement, "version", lambda package: "99.0"),
    ]
    for place, name, change in changes:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, change)
            names.append(machine_name("cpu"))
    assert len(set(names)) == len(names) and names[1].startswith("pod-1-2-")
