"""NVML with the driver's answers replaced: what a test of lost, hidden, sliced or hot GPUs needs."""

# ruff: noqa: N802 - the functions carry NVML's names

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 2**30


class FakeNvml:
    """The real `pynvml` with every call to the driver answered from here; its errors and constants are its own."""

    def __init__(self, uuids: tuple[str, ...] = ("GPU-aaaa-1", "GPU-bbbb-2"), name: str = "Tesla T4") -> None:
        self.uuids = uuids
        self.name = name
        self.memory_bytes = 15 * GIB
        self.capability = (7, 5)
        self.reasons = 0x24
        self.failures: dict[str, int] = {}
        self.processes: list[Any] = []
        self.open_sessions = 0
        self.hang = threading.Event()
        self.hang.set()

    def __getattr__(self, attribute: str) -> Any:
        if attribute in self.failures:
            code = self.failures[attribute]

            def fail(*_: Any) -> Any:
                raise pynvml.NVMLError(code)

            return fail
        answers: dict[str, Any] = {
            "nvmlDeviceGetTemperature": 71,
            "nvmlDeviceGetPowerUsage": 69_500,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=98),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=self.memory_bytes, used=3 * GIB),
            "nvmlDeviceGetTotalEnergyConsumption": 5_000,
            "nvmlDeviceGetCurrentClocksEventReasons": self.reasons,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x8,
            "nvmlDeviceGetEnforcedPowerLimit": 70_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": 75_000,
            "nvmlDeviceGetMaxClockInfo": 1590,
            "nvmlDeviceGetCudaComputeCapability": self.capability,
            "nvmlDeviceGetName": self.name,
            "nvmlDeviceGetComputeRunningProcesses": self.processes,
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": 1,
            "nvmlSystemGetDriverVersion": "535.183.01",
            "nvmlDeviceGetCount": len(self.uuids),
        }
        if attribute in answers:
            return lambda *_: answers[attribute]
        if attribute.startswith("nvmlDevice"):
            raise AssertionError(f"the fake has no {attribute}")
        return getattr(pynvml, attribute)

    def nvmlInit(self) -> None:
        if "nvmlInit" in self.failures:
            raise pynvml.NVMLError(self.failures["nvmlInit"])
        self.open_sessions += 1

    def nvmlShutdown(self) -> None:
        self.open_sessions -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if "nvmlDeviceGetHandleByIndex" in self.failures:
            raise pynvml.NVMLError(self.failures["nvmlDeviceGetHandleByIndex"])
        self.hang.wait()
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != "MIG-cccc":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return self.uuids[handle]

    def nvmlDeviceGetIndex(self, handle: int) -> int:
        return handle

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return {pynvml.NVML_CLOCK_SM: 1215, pynvml.NVML_CLOCK_MEM: 5000}[kind]
