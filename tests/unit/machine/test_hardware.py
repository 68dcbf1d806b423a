"""The hardware profile, GPU monitor and memory model: the real CPU, and NVML with its functions replaced."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from fake_nvml import FakeNvml

from autotune.machine import gpu_monitor, hardware, host, nvml, torch_probe
from autotune.machine.hardware import GpuMonitor, HardwareError, HardwareProfile

GIB = 2**30


@pytest.fixture(autouse=True)
def all_gpus_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture(scope="module")
def cpu_profile() -> HardwareProfile:
    return hardware.profile(quick=True, device="cpu")


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


def test_profiling_imports_no_torch_here() -> None:
    code = (
        "import sys; from autotune.machine import doctor, hardware\n"
        "early = {'torch', 'optuna', 'pandas', 'pynvml'} & set(sys.modules); assert not early, early\n"
        "hardware.profile(quick=True, device='cpu'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_usable_cores_respect_the_affinity_mask() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from autotune.machine import host\n"
    code += "print(host.usable_cores())"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30).stdout
    assert out.strip() == "1"
    assert host.usable_cores() >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"emulate": "t4", "device": "cpu"}, "cannot emulate a T4 on the CPU"),
        ({"emulate": "a100", "device": "cpu"}, 'cannot emulate "a100": the only card to emulate is "t4"'),
        ({"device": "tpu"}, 'unknown device "tpu"'),
        ({"device": "cpu:1"}, 'unknown device "cpu:1"'),
        ({"device": "cuda:2"}, 'no device "cuda:2": 2 NVIDIA GPUs are visible'),
    ],
)
def test_impossible_profiles_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HardwareError, match=message):
        hardware.profile(quick=True, nvml=FakeNvml(), **arguments)


def test_emulation_needs_the_memory() -> None:
    small = FakeNvml(name="NVIDIA GeForce RTX 3060")
    small.memory_bytes = 12 * GIB
    with pytest.raises(HardwareError, match=r"RTX 3060: 12\.0 GiB is less than 15"):
        hardware.profile("t4", nvml=small)


def test_broken_gpu_is_not_silently_a_cpu() -> None:
    broken = FakeNvml()
    broken.failures["nvmlDeviceGetHandleByIndex"] = pynvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(HardwareError, match="GPU stopped answering; run autotune doctor"):
        hardware.profile(nvml=broken)


def test_gpu_that_torch_cannot_use_says_so() -> None:
    """The fake's UUID exists for NVML only: the real child process with the real torch fails on it."""
    with pytest.raises(HardwareError, match=r"could not measure the cuda: torch failed in a child process \(exit 1\)"):
        hardware.profile(quick=True, nvml=FakeNvml())


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
    return hardware._assemble(gpu, 2, emulate, answer, sample, hardware._machine_facts())


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
    assert hardware.dtype_for(capability) == dtype


def test_capability_ten_is_newer_than_eight() -> None:
    assert hardware.dtype_for("10.0") == hardware.dtype_for("12.0") == "bf16"


# ---- the child process --------------------------------------------------------------------------------------------


def test_hung_child_is_killed_in_time() -> None:
    request = {"task": "measure", "device": "cpu", "dtypes": ["fp32"], "warm_dtype": "", "seconds": 60, "threads": 1}
    calls: list[None] = []
    with pytest.raises(torch_probe.ProbeError, match="did not answer within 1 s"):
        torch_probe.ask(request, 1.0, "", lambda: calls.append(None))
    assert len(calls) >= 2


def test_failing_child_gives_its_last_line() -> None:
    with pytest.raises(torch_probe.ProbeError, match=r"exit 1\): KeyError: 'task'"):
        torch_probe.ask({}, 30.0)


def test_relative_spread_by_hand() -> None:
    # Quartiles of 1..7 by the exclusive method: 2, 4, 6.
    assert torch_probe.relative_spread([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == 1.0
    assert torch_probe.relative_spread([3.0, 3.0, 3.0]) == 0.0


# ---- which GPUs are visible ---------------------------------------------------------------------------------------


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
    with pytest.raises(nvml.NvmlError, match="updated under the running system: restart it"):
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
    expected = [hardware.GpuProcess(0, 1, 2 * GIB), hardware.GpuProcess(0, 2, None)]
    assert hardware.other_gpu_processes(fake) == expected


# ---- the monitor --------------------------------------------------------------------------------------------------


def test_sample_has_units() -> None:
    fake = FakeNvml()
    with GpuMonitor(1, fake) as monitor:
        sample = monitor.sample()
        assert sample is not None
        assert monitor.reason == ""
    assert dataclasses.astuple(sample)[1:] == (
        71.0,
        69.5,
        1.215e9,
        5e9,
        0.98,
        3 * GIB,
        5.0,
        ("power cap", "thermal (software)"),
    )
    assert fake.open_sessions == 0


def test_throttle_words_by_hand() -> None:
    assert gpu_monitor.throttle_words(0) == ()
    assert gpu_monitor.throttle_words(0x1) == ("idle",)
    assert gpu_monitor.throttle_words(0xC8) == ("hardware slowdown", "thermal (hardware)", "power brake")
    assert gpu_monitor.throttle_words(0x804) == ("power cap", "unknown reason 0x800")


def test_throttle_words_know_every_bit_of_the_library() -> None:
    bits = pynvml.nvmlClocksEventReasonAll | pynvml.nvmlClocksThrottleReasonAll
    assert not any(word.startswith("unknown") for word in gpu_monitor.throttle_words(bits))


def test_older_driver_knows_the_reasons_by_their_older_name() -> None:
    fake = FakeNvml()
    fake.failures["nvmlDeviceGetCurrentClocksEventReasons"] = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    sample = GpuMonitor(0, fake).sample()
    assert sample is not None
    assert sample.throttle_reasons == ("hardware slowdown",)


def test_missing_reading_is_none_and_the_rest_stays() -> None:
    fake = FakeNvml()
    fake.failures["nvmlDeviceGetTotalEnergyConsumption"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    fake.failures["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NO_PERMISSION
    sample = GpuMonitor(0, fake).sample()
    assert sample is not None
    assert (sample.energy_j, sample.utilization_frac, sample.power_w) == (None, None, 69.5)


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_RESET_REQUIRED]
)
def test_lost_gpu_is_remembered_and_tried_again(code: int) -> None:
    fake = FakeNvml()
    with GpuMonitor(0, fake) as monitor:
        assert monitor.sample() is not None
        fake.failures["nvmlDeviceGetPowerUsage"] = code
        assert monitor.sample() is None
        assert monitor.reason == "GPU stopped answering"
        fake.failures.clear()
        assert monitor.sample() is not None
        assert monitor.reason == ""
    assert fake.open_sessions == 0


def test_hanging_driver_does_not_hang_the_monitor() -> None:
    fake = FakeNvml()
    monitor = GpuMonitor(0, fake, timeout_s=0.1)
    fake.hang.clear()
    before = threading.active_count()
    assert [monitor.sample() for _ in range(5)] == [None] * 5
    assert monitor.reason == "GPU stopped answering"
    assert threading.active_count() == before + 1
    monitor.close()
    fake.hang.set()
    assert monitor._reader is not None
    monitor._reader.join(5)
    assert monitor.sample() is not None


def test_monitor_without_a_driver_says_why() -> None:
    fake = FakeNvml()
    fake.failures["nvmlInit"] = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    monitor = GpuMonitor(0, fake)
    assert monitor.sample() is None
    assert monitor.reason == "no NVIDIA driver is installed"
