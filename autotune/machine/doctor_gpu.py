"""The doctor's checks of torch, the NVIDIA driver and the GPUs."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autotune.machine import cuda_support, torch_probe
from autotune.machine.gpu_monitor import GpuMonitor
from autotune.machine.nvml import GpuIdentity, GpuProcess, NoDriverError, NvmlError, other_gpu_processes, visible_gpus

_Level = Literal["ok", "warn", "fail"]

# A cold disk can take a minute to import torch.
_TORCH_TIMEOUT_S = 120.0
_GET_STARTED = "PyTorch's Get Started page"
_HOT_REASONS = ("thermal", "hardware slowdown", "power brake")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's answer; `remedy` is empty when there is nothing to do."""

    level: _Level
    subject: str
    message: str
    remedy: str = ""


class Machine:
    """What the checks look at: each part is asked once, when first needed; a failure is kept as words.

    Args:
        folder: Where runs will be written.
        nvml: The NVML module to use; None imports `pynvml`.
    """

    def __init__(self, folder: Path, nvml: Any = None) -> None:
        self.folder = folder
        self.nvml = nvml
        self.gpu_error = ""
        self.gpu_is_broken = False
        self.torch_error = ""

    @functools.cached_property
    def gpus(self) -> list[GpuIdentity]:
        """The visible GPUs; empty, with `gpu_error` set, when there is none."""
        try:
            gpus = visible_gpus(self.nvml)
        except NvmlError as error:
            self.gpu_error = str(error)
            self.gpu_is_broken = not isinstance(error, NoDriverError)
            return []

        if not gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
            self.gpu_error = f"the driver lists none (CUDA_VISIBLE_DEVICES is {visible!r})"
        return gpus

    @functools.cached_property
    def torch(self) -> dict[str, Any] | None:
        """What torch says in a child process; None, with `torch_error` set, when it cannot."""
        try:
            return torch_probe.ask({"task": "inspect"}, _TORCH_TIMEOUT_S)
        except (torch_probe.ProbeError, OSError) as error:
            self.torch_error = str(error)
            return None


def gib(size_bytes: int) -> str:
    """Return a size in words, such as "14.6 GiB"."""
    return f"{size_bytes / 2**30:.1f} GiB"


def check_torch(machine: Machine) -> list[Finding]:
    """Check that torch can be imported."""
    if machine.torch is None:
        remedy = f"reinstall torch with the command that {_GET_STARTED} gives for this machine"
        return [Finding("fail", "torch", machine.torch_error, remedy)]

    build = "CPU only"
    if machine.torch["cuda_version"]:
        build = f"CUDA {machine.torch['cuda_version']}"
    return [Finding("ok", "torch", f"{machine.torch['torch_version']} ({build})")]


def check_gpu(machine: Machine) -> list[Finding]:
    """Check that there is a GPU, with free memory."""
    if machine.gpus:
        return [_gpu_memory(machine, gpu) for gpu in machine.gpus]

    if machine.gpu_is_broken:
        return [
            Finding("fail", "gpu", machine.gpu_error, "restart the machine, then see that nvidia-smi lists the GPU")
        ]

    remedy = "fine for studies on the CPU; for a GPU, install NVIDIA's driver (nvidia-smi must list it)"
    return [Finding("warn", "gpu", f"no NVIDIA GPU is visible: {machine.gpu_error}", remedy)]


def _gpu_memory(machine: Machine, gpu: GpuIdentity) -> Finding:
    with GpuMonitor(gpu.index, machine.nvml) as monitor:
        sample = monitor.sample()
    subject = f"gpu {gpu.index}"
    total = gib(gpu.memory_bytes)

    if sample is None:
        return Finding("fail", subject, f"{gpu.name}: {monitor.reason}", "restart the machine")
    if sample.memory_used_bytes is None:
        return Finding("ok", subject, f"{gpu.name}, {total}")

    free_bytes = max(0, gpu.memory_bytes - sample.memory_used_bytes)
    message = f"{gpu.name}, {total}, {gib(free_bytes)} free"
    if free_bytes < 0.5 * gpu.memory_bytes:
        return Finding("warn", subject, message, "stop the other programs on this GPU before the run")
    return Finding("ok", subject, message)


def check_driver(machine: Machine) -> list[Finding]:
    """Check that the driver is new enough for torch's CUDA build."""
    if not machine.gpus or machine.torch is None:
        return []

    gpu = machine.gpus[0]
    cuda_build = machine.torch["cuda_version"]
    cuda_error = machine.torch["cuda_error"]
    return [driver_finding(gpu.name, gpu.driver_version, cuda_build, cuda_error)]


def driver_finding(gpu_name: str, driver_version: str, cuda_build: str, cuda_error: str) -> Finding:
    """Return whether torch's CUDA build runs on the installed driver.

    Args:
        gpu_name: For the message.
        driver_version: Such as "535.183.01".
        cuda_build: Torch's, such as "13.0"; "" for a build without CUDA.
        cuda_error: What torch said when it tried the GPU; "" when that worked.

    Returns:
        A finding whose remedy names a newer driver or the build that fits.
    """
    installed = f"{gpu_name} with driver {driver_version}"
    fitting = cuda_support.fitting_cuda(driver_version)
    other_build = ""
    if fitting:
        other_build = f"install a torch build for CUDA {fitting} (see {_GET_STARTED})"

    if not cuda_build:
        remedy = other_build or "install a newer NVIDIA driver, then a torch build with CUDA"
        return Finding("fail", "driver", f"{installed}, but torch is a build without CUDA", remedy)

    # The table of drivers is not asked where torch works: NVIDIA's forward-compatibility package runs newer builds on
    # an older driver.
    if not cuda_error:
        return Finding("ok", "driver", f"{installed} runs torch's CUDA {cuda_build}")

    needed = cuda_support.minimum_driver(cuda_build)
    if cuda_support.driver_major(driver_version) < needed:
        message = (
            f"{gpu_name}: driver {driver_version} is too old for torch's CUDA {cuda_build}, "
            f"which needs driver {needed} or newer"
        )
        remedy = f"install NVIDIA driver {needed} or newer"
        if other_build:
            remedy += f", or {other_build}"
        return Finding("fail", "driver", message, remedy)

    remedy = (
        "see that nvidia-smi works and that no other program has exclusive use of the GPU, then restart the machine"
    )
    return Finding("fail", "driver", f"{installed}: torch cannot use it: {cuda_error}", remedy)


def check_capability(machine: Machine) -> list[Finding]:
    """Check that torch's build has code for each GPU."""
    if machine.torch is None:
        return []
    return [_capability_finding(gpu, machine.torch["arch_list"]) for gpu in machine.torch["gpus"]]


def _capability_finding(gpu: dict[str, Any], arch_list: list[str]) -> Finding:
    """Return whether a torch build has code for a GPU.

    Args:
        gpu: `{"name", "capability"}`.
        arch_list: Torch's, such as ["sm_75", "sm_80"].

    Returns:
        A finding.
    """
    message = f"{gpu['name']} has compute capability {gpu['capability']}"

    if cuda_support.has_code_for(gpu["capability"], arch_list):
        return Finding("ok", "capability", f"{message}, which this torch supports")

    remedy = f"install the torch build for CUDA 12.6 if the card is older, else the newest one ({_GET_STARTED})"
    return Finding("fail", "capability", f"{message}, but this torch supports only {' '.join(arch_list)}", remedy)


def check_half_precision(machine: Machine) -> list[Finding]:
    """Check that the half-precision type that training will use gives right numbers."""
    if machine.torch is None:
        return []
    return [_precision_finding(gpu) for gpu in machine.torch["gpus"]]


def _precision_finding(gpu: dict[str, Any]) -> Finding:
    """Return whether half precision works on a GPU.

    Args:
        gpu: `{"name", "native_bf16", "fp16_error", "bf16_error"}`, the errors "" when the product was right.

    Returns:
        A finding that says which type runs will use.
    """
    used = "bf16" if gpu["native_bf16"] else "fp16"

    if error := gpu[f"{used}_error"]:
        remedy = f"reinstall torch for this driver ({_GET_STARTED}); if the error stays, the GPU is faulty"
        return Finding("fail", "precision", f"{gpu['name']}: {used} does not work: {error}", remedy)
    if error := gpu["fp16_error"]:
        message = f"{gpu['name']}: fp16 does not work: {error}"
        return Finding("warn", "precision", message, "train in bf16, the default on this card")

    reason = "no native bf16 on this card, so runs use fp16 with loss scaling"
    if gpu["native_bf16"]:
        reason = "native bf16, which runs use"
    return Finding("ok", "precision", f"{gpu['name']}: {reason}")


def check_gpu_users(machine: Machine) -> list[Finding]:
    """Check that nobody else computes on the GPU."""
    if not machine.gpus:
        return []

    others = other_gpu_processes(machine.nvml)
    if not others:
        return [Finding("ok", "gpu users", "no other process")]

    words = ", ".join(f"PID {other.pid} on GPU {other.gpu_index} ({_held(other)})" for other in others)
    return [Finding("warn", "gpu users", words, "stop them: a shared GPU is slow, and its timings are misleading")]


def _held(process: GpuProcess) -> str:
    return "memory unknown" if process.memory_bytes is None else gib(process.memory_bytes)


def check_clocks(machine: Machine) -> list[Finding]:
    """Check that neither heat nor power supply holds the clocks back now."""
    return [_clocks(machine, gpu) for gpu in machine.gpus]


def _clocks(machine: Machine, gpu: GpuIdentity) -> Finding:
    with GpuMonitor(gpu.index, machine.nvml) as monitor:
        sample = monitor.sample()
    subject = f"clocks {gpu.index}"
    if sample is None:
        return Finding("warn", subject, monitor.reason, "restart the machine")

    clock = "unknown" if sample.sm_clock_hz is None else f"{sample.sm_clock_hz / 1e6:.0f} MHz"
    heat = "unknown" if sample.temperature_c is None else f"{sample.temperature_c:.0f} C"
    limits = ", ".join(sample.throttle_reasons) or "nothing"
    message = f"{clock} of {gpu.sm_clock_max_hz / 1e6:.0f} MHz, {heat}, limited by: {limits}"

    if any(reason.startswith(_HOT_REASONS) for reason in sample.throttle_reasons):
        return Finding(
            "warn", subject, message, "improve the cooling or the power supply: runs will be slow and uneven"
        )
    return Finding("ok", subject, message)
