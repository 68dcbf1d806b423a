"""What NVIDIA's management library (NVML) reports about the GPUs; asking it creates no CUDA context."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Readings that a GPU, a driver or a MIG slice may lack; such a reading is None, and the others still count.
_ABSENT_READING = (
    "NVML_ERROR_NOT_SUPPORTED",
    "NVML_ERROR_NO_PERMISSION",
    "NVML_ERROR_FUNCTION_NOT_FOUND",
    "NVML_ERROR_INVALID_ARGUMENT",
    "NVML_ERROR_NO_DATA",
    "NVML_ERROR_NOT_FOUND",
    "NVML_ERROR_DEPRECATED",
)
_NO_DRIVER = {
    "NVML_ERROR_LIBRARY_NOT_FOUND": "no NVIDIA driver is installed",
    "NVML_ERROR_DRIVER_NOT_LOADED": "the NVIDIA driver is not loaded",
}
STOPPED = "GPU stopped answering"
_BROKEN = {
    "NVML_ERROR_GPU_IS_LOST": STOPPED,
    "NVML_ERROR_RESET_REQUIRED": STOPPED,
    "NVML_ERROR_TIMEOUT": STOPPED,
    "NVML_ERROR_UNKNOWN": STOPPED,
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "the driver was updated while the machine was running: restart the machine",
}


class NvmlError(RuntimeError):
    """NVML cannot be asked; the message is one plain sentence with the reason."""


class NoDriverError(NvmlError):
    """There is no NVIDIA driver here: no GPU, rather than a broken one."""


@dataclass(frozen=True)
class GpuIdentity:
    """What does not change about one visible GPU; powers and clocks are 0 where the GPU does not report them.

    Args:
        index: Its physical index, in bus order.
        uuid: Value of CUDA_VISIBLE_DEVICES that pins a process to it; a MIG slice's own where one was chosen.
        memory_bytes: All of its memory, or the slice's.
        capability: CUDA compute capability, such as "7.5".
        power_limit_w: The limit in force.
        power_default_w: The limit that the card came with.
        sm_clock_max_hz: Highest clock of its processors.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    capability: str
    driver_version: str
    power_limit_w: float
    power_default_w: float
    sm_clock_max_hz: float


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory on a GPU; `memory_bytes` is None where the driver does not report it."""

    gpu_index: int
    pid: int
    memory_bytes: int | None


@contextlib.contextmanager
def session(nvml: Any = None) -> Iterator[Any]:
    """Yield NVML initialised, and shut it down afterwards.

    Args:
        nvml: The module to use; None imports `pynvml` (package nvidia-ml-py).

    Yields:
        The module.

    Raises:
        NvmlError: NVML cannot start, or fails inside the block.
    """
    nvml = nvml or load()
    try:
        nvml.nvmlInit()
        try:
            yield nvml
        finally:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise unavailable(nvml, error) from error


def load() -> Any:
    """Return the module `pynvml`, imported only now.

    Raises:
        NoDriverError: The package nvidia-ml-py is not installed.
    """
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise NoDriverError("the Python package nvidia-ml-py is not installed: pip install nvidia-ml-py") from error


def unavailable(nvml: Any, error: Any) -> NvmlError:
    """Return the plain sentence for an NVML error, as an exception to raise.

    Args:
        nvml: The module that raised.
        error: Its NVMLError.

    Returns:
        `NoDriverError` where there is no driver, else `NvmlError`.
    """
    for error_type, sentences in ((NoDriverError, _NO_DRIVER), (NvmlError, _BROKEN)):
        for name, sentence in sentences.items():
            if error.value == getattr(nvml, name):
                return error_type(sentence)

    return NvmlError(f"the NVIDIA driver reported an error: {error}")


def reading(nvml: Any, name: str, *args: Any) -> Any:
    """Return one NVML reading, or None where this GPU or driver lacks it.

    Args:
        nvml: The module.
        name: The function's name.
        args: Its arguments.

    Returns:
        What the function returns, or None.

    Raises:
        nvml.NVMLError: Anything but an absent reading, a lost GPU above all.
    """
    try:
        return getattr(nvml, name)(*args)
    except nvml.NVMLError as error:
        if error.value in {getattr(nvml, absent) for absent in _ABSENT_READING}:
            return None
        raise


def scaled(value: Any, factor: float) -> float | None:
    """Return `value * factor` as a float (NVML counts mW, mJ and MHz); None stays None."""
    return None if value is None else float(value) * factor


def _visible(nvml: Any) -> list[tuple[int, str]]:
    """Return (physical index, UUID) of each GPU that CUDA_VISIBLE_DEVICES leaves visible, in its order."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    all_gpus = [(index, str(nvml.nvmlDeviceGetUUID(handle))) for index, handle in enumerate(handles)]

    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is None:
        return all_gpus

    visible: list[tuple[int, str]] = []
    for name in variable.split(","):
        gpu = _named(nvml, all_gpus, name.strip())
        if gpu is None or gpu in visible:
            break  # CUDA hides all that follows the first entry it cannot use
        visible.append(gpu)
    return visible


def _named(nvml: Any, all_gpus: list[tuple[int, str]], name: str) -> tuple[int, str] | None:
    """Return the GPU that an entry of CUDA_VISIBLE_DEVICES names, None if there is none."""
    if name.isdigit():
        index = int(name)
        return all_gpus[index] if index < len(all_gpus) else None

    if name.startswith("MIG-"):
        return _mig_slice(nvml, name)

    # CUDA takes any unambiguous start of a UUID.
    matches = [gpu for gpu in all_gpus if name and gpu[1].startswith(name)]
    return matches[0] if len(matches) == 1 else None


def _mig_slice(nvml: Any, uuid: str) -> tuple[int, str] | None:
    mig_handle = reading(nvml, "nvmlDeviceGetHandleByUUID", uuid)
    if mig_handle is None:
        return None

    parent = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig_handle)
    return int(nvml.nvmlDeviceGetIndex(parent)), uuid


def visible_devices(nvml: Any = None) -> list[int]:
    """Return the physical indices of the GPUs that CUDA_VISIBLE_DEVICES leaves visible, without torch.

    Numbers in CUDA_VISIBLE_DEVICES are read in bus order (CUDA_DEVICE_ORDER=PCI_BUS_ID): pin processes by UUID.

    Args:
        nvml: The module to use; None imports `pynvml`.

    Returns:
        Indices in that variable's order; empty where there is no driver or no GPU.

    Raises:
        NvmlError: There is a driver, and it is broken.
    """
    try:
        with session(nvml) as library:
            return [index for index, _ in _visible(library)]
    except NoDriverError:
        return []


def visible_gpus(nvml: Any = None) -> list[GpuIdentity]:
    """Return the identity of each visible GPU.

    Args:
        nvml: The module to use; None imports `pynvml`.

    Returns:
        Identities in the order of `visible_devices`.

    Raises:
        NvmlError: NVML cannot start or a GPU does not answer.
    """
    with session(nvml) as library:
        return [_identity(library, index, uuid) for index, uuid in _visible(library)]


def _identity(nvml: Any, index: int, uuid: str) -> GpuIdentity:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory_handle = nvml.nvmlDeviceGetHandleByUUID(uuid) if uuid.startswith("MIG-") else handle
    memory = nvml.nvmlDeviceGetMemoryInfo(memory_handle)

    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    limit_mw = reading(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)
    default_mw = reading(nvml, "nvmlDeviceGetPowerManagementDefaultLimit", handle)
    clock_mhz = reading(nvml, "nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM)

    return GpuIdentity(
        index=index,
        uuid=uuid,
        name=str(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(memory.total),
        capability=f"{major}.{minor}",
        driver_version=str(nvml.nvmlSystemGetDriverVersion()),
        power_limit_w=scaled(limit_mw, 1e-3) or 0.0,
        power_default_w=scaled(default_mw, 1e-3) or 0.0,
        sm_clock_max_hz=scaled(clock_mhz, 1e6) or 0.0,
    )


def other_gpu_processes(nvml: Any = None) -> list[GpuProcess]:
    """Return the processes on the visible GPUs that are neither this one nor its descendants.

    Inside a container the driver may list none, or list host process ids.

    Args:
        nvml: The module to use; None imports `pynvml`.

    Returns:
        One entry per process and GPU.

    Raises:
        NvmlError: NVML cannot start or a GPU does not answer.
    """
    ours = own_pids()
    others = []

    with session(nvml) as library:
        for index, _ in _visible(library):
            handle = library.nvmlDeviceGetHandleByIndex(index)
            for process in reading(library, "nvmlDeviceGetComputeRunningProcesses", handle) or []:
                if process.pid not in ours:
                    others.append(GpuProcess(index, int(process.pid), process.usedGpuMemory))

    return others


def own_pids() -> set[int]:
    """Return the numbers of this process and of its descendants."""
    import psutil  # type: ignore[import-untyped, unused-ignore]

    return {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
