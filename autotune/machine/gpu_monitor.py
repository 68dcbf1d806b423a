"""A GPU's health through the night: temperature, power, clocks and what holds them back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from autotune.machine.nvml import STOPPED, load, own_pids, reading, scaled, unavailable

# Bits of nvmlDeviceGetCurrentClocksEventReasons. Source: nvml.h, nvmlClocksEventReason*; 0x200 and 0x400 are
# the older nvmlClocksThrottleReason* board and reliability limits.
_REASON_WORDS = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "thermal (software)",
    0x040: "thermal (hardware)",
    0x080: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
# A power cap is how most cards run under full load; these mean that heat or the power supply slowed the card.
HARMFUL_REASONS = frozenset(
    {"hardware slowdown", "thermal (software)", "thermal (hardware)", "power brake", "board limit", "reliability"}
)


@dataclass(frozen=True)
class GpuSample:
    """One reading of a GPU's health; None stands for what this GPU or driver does not report.

    `time` is Unix seconds; `energy_j` counts up from when the driver was loaded; `other_processes` are the numbers and
    the bytes (0 if unknown) of processes on it that are not ours.
    """

    time: float
    temperature_c: float | None
    power_w: float | None
    sm_clock_hz: float | None
    memory_clock_hz: float | None
    utilization_frac: float | None
    memory_used_bytes: int | None
    energy_j: float | None
    throttle_reasons: tuple[str, ...]
    other_processes: tuple[tuple[int, int], ...] = ()


def throttle_words(bits: int) -> tuple[str, ...]:
    """Return the words for a mask of clock event reasons.

    Args:
        bits: NVML's mask, >= 0; 0 means that nothing holds the clocks back.

    Returns:
        One word or two per set bit, lowest bit first.
    """
    set_bits = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
    return tuple(_REASON_WORDS.get(bit, f"unknown reason {bit:#x}") for bit in set_bits)


class GpuMonitor:
    """Reads one GPU's health, again and again, and never raises or hangs.

    Args:
        index: Physical index of the GPU, >= 0.
        nvml: The module to use; None imports `pynvml`.
        timeout_s: Seconds to wait for the driver before calling the GPU lost, > 0.

    Attributes:
        reason: Why the last `sample` gave None; empty when it did not.
    """

    def __init__(self, index: int = 0, nvml: Any = None, timeout_s: float = 5.0) -> None:
        self.reason = ""
        self._index = index
        self._nvml = nvml
        self._timeout_s = timeout_s
        self._started = False
        self._reader: threading.Thread | None = None
        self._sample: GpuSample | None = None

    def sample(self) -> GpuSample | None:
        """Return a reading taken now.

        Returns:
            The sample, or None with `reason` set; the next call tries afresh.
        """
        # A GPU that fell off the bus can hold an NVML call for ever, so a daemon thread makes it. While one thread is
        # stuck no other is started: a night of them would be thousands.
        is_stuck = self._reader is not None and self._reader.is_alive()
        if self._reader is None or not is_stuck:
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()

        self._reader.join(0 if is_stuck else self._timeout_s)
        if self._reader.is_alive():
            self.reason = STOPPED
            return None
        return self._sample

    def close(self) -> None:
        """Let go of NVML; a later `sample` starts it again."""
        if self._reader is None or not self._reader.is_alive():  # a stuck driver would hold this call as well
            self._shut_down()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        self._sample = None
        try:
            self._sample = self._read_or_raise()
            self.reason = ""
        except Exception as error:  # noqa: BLE001 - whatever it is, the night goes on
            self.reason = self._explain(error)
            self._shut_down()  # a fresh start is what a reset driver needs

    def _shut_down(self) -> None:
        if self._started:
            self._started = False
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _explain(self, error: Exception) -> str:
        if self._nvml is not None and isinstance(error, self._nvml.NVMLError):
            return str(unavailable(self._nvml, error))
        return str(error) or type(error).__name__

    def _read_or_raise(self) -> GpuSample:
        self._nvml = self._nvml or load()
        if not self._started:
            self._nvml.nvmlInit()
            self._started = True

        handle = self._nvml.nvmlDeviceGetHandleByIndex(self._index)
        return _take_sample(self._nvml, handle)


def _take_sample(nvml: Any, handle: Any) -> GpuSample:
    def read(name: str, *args: Any) -> Any:
        return reading(nvml, name, handle, *args)

    temperature_c = read("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
    utilization = read("nvmlDeviceGetUtilizationRates")
    memory = read("nvmlDeviceGetMemoryInfo")

    return GpuSample(
        time=time.time(),
        temperature_c=scaled(temperature_c, 1.0),
        power_w=scaled(read("nvmlDeviceGetPowerUsage"), 1e-3),
        sm_clock_hz=scaled(read("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM), 1e6),
        memory_clock_hz=scaled(read("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM), 1e6),
        utilization_frac=None if utilization is None else utilization.gpu / 100,
        memory_used_bytes=None if memory is None else int(memory.used),
        energy_j=scaled(read("nvmlDeviceGetTotalEnergyConsumption"), 1e-3),
        throttle_reasons=_throttle_reasons(read),
        other_processes=_other_processes(read),
    )


def _other_processes(read: Callable[..., Any]) -> tuple[tuple[int, int], ...]:
    """Return the processes on the GPU that are not ours, with their bytes.

    Inside a container the driver may know ours by other numbers: only where it lists one of ours are the others told.
    """
    own = own_pids()
    processes = read("nvmlDeviceGetComputeRunningProcesses") or []
    if not any(process.pid in own for process in processes):
        return ()
    return tuple((int(process.pid), int(process.usedGpuMemory or 0)) for process in processes if process.pid not in own)


def _throttle_reasons(read: Callable[..., Any]) -> tuple[str, ...]:
    bits = read("nvmlDeviceGetCurrentClocksEventReasons")
    if bits is None:  # drivers before 535 know it by its older name
        bits = read("nvmlDeviceGetCurrentClocksThrottleReasons")
    return throttle_words(int(bits or 0))
