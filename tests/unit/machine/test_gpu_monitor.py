"""A GPU's health: readings with units, missing readings, and drivers that fail or hang."""

from __future__ import annotations

import dataclasses
import threading

import pynvml
import pytest
from fake_nvml import FakeNvml

from autotune.machine import gpu_monitor
from autotune.machine.gpu_monitor import GpuMonitor

GIB = 2**30


def test_sample_has_units() -> None:
    fake = FakeNvml()
    with GpuMonitor(1, fake) as monitor:
        sample = monitor.sample()
        assert sample is not None
        assert monitor.reason == ""
    assert dataclasses.astuple(sample)[1:-1] == (
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
