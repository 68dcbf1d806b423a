"""How fast this machine really is: `profile` measures it and returns a `HardwareProfile`."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import platform
import re
import socket
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from autotune.machine import host, torch_probe
from autotune.machine.gpu_monitor import GpuMonitor, GpuSample
from autotune.machine.hardware import HardwareError, HardwareProfile
from autotune.machine.nvml import GpuIdentity, NoDriverError, NvmlError, visible_gpus

# What the driver reports of a T4's 16 GB while error correction is on.
_T4_MEMORY_BYTES = 15 * 2**30
# A cold disk can take a minute to import torch.
_MEASURE_TIMEOUT_S = 180.0
# Letters of a host's name in the name of a file.
_LONGEST_HOST = 60


def profile(
    emulate: str = "",
    quick: bool = False,
    device: str = "auto",
    nvml: Any = None,
    while_waiting: Callable[[], object] = lambda: None,
) -> HardwareProfile:
    """Measure this machine, in a child process: the caller gets no CUDA context and imports no torch.

    Args:
        emulate: "" or "t4": treat a larger GPU as a T4 (15 GiB, fp16, no flash attention); speeds stay its own.
        quick: Measure for about 1 s instead of 2 s (CPU) or 15 s (GPU), and leave out the warm figure.
        device: "auto" (the first visible GPU, else the CPU), "cpu", "cuda", or "cuda:1" for the second GPU.
        nvml: The NVML module to use; None imports `pynvml`.
        while_waiting: Called about four times a second; what it raises ends the measuring.

    Returns:
        The profile.

    Raises:
        HardwareError: There is no such device, it cannot be emulated on, or torch cannot use it.
    """
    if emulate not in ("", "t4"):
        raise HardwareError(f'cannot emulate "{emulate}": the only card that can be emulated is "t4"')

    gpus = _gpus(device, nvml)
    gpu = _chosen_gpu(device, gpus)

    if gpu is None:
        if emulate:
            raise HardwareError(
                "cannot emulate a T4 on the CPU: it needs an NVIDIA GPU of 15 GiB or more; drop --emulate"
            )
        return _profile_cpu(quick, while_waiting)

    _check_emulation(emulate, gpu)
    return _profile_gpu(gpu, len(gpus), emulate, quick, nvml, while_waiting)


def _gpus(device: str, nvml: Any) -> list[GpuIdentity]:
    if device == "cpu":
        return []

    try:
        return visible_gpus(nvml)
    except NoDriverError:
        return []
    except NvmlError as error:
        # A broken GPU must not turn a night on the GPU into a night on the CPU unasked.
        raise HardwareError(f"the GPU cannot be read: {error}; run autotune doctor, or choose --device cpu") from error


def require_device(device: str) -> None:
    """Check that there is such a device.

    Args:
        device: "auto", "cpu", "cuda", or "cuda:1" for the second GPU.

    Raises:
        HardwareError: There is none.
    """
    _chosen_gpu(device, _gpus(device, None))


def machine_name(device: str = "auto", emulate: str = "") -> str:
    """Return a name for this machine and one of its devices, under which its profile is kept.

    Two machines never have the same, and a machine whose card, cores or torch have changed has another than before.

    Args:
        device: As of `profile`.
        emulate: "" or "t4".

    Raises:
        HardwareError: There is no such device.
    """
    gpu = _chosen_gpu(device, _gpus(device, None))
    card = (gpu.name, gpu.uuid) if gpu is not None else ()
    try:
        torch_version = version("torch")
    except PackageNotFoundError:
        torch_version = ""

    facts = (socket.gethostname(), card, host.cpu_name(), host.usable_cores(), emulate, torch_version)
    host_words = re.sub(r"[^A-Za-z0-9.-]+", "-", socket.gethostname())[:_LONGEST_HOST]
    return f"{host_words}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"


def _chosen_gpu(device: str, gpus: Sequence[GpuIdentity]) -> GpuIdentity | None:
    if device == "cpu" or (device == "auto" and not gpus):
        return None

    kind, _, number = device.partition(":")
    if device not in ("auto", "cuda") and not (kind == "cuda" and number.isdigit()):
        raise HardwareError(f'unknown device "{device}": use auto, cpu, cuda, or cuda:N')

    place = int(number or 0)
    if place >= len(gpus):
        raise HardwareError(
            f'no device "{device}": the number of visible NVIDIA GPUs is {len(gpus)}; '
            "use --device cpu, or see autotune doctor"
        )
    return gpus[place]


def _check_emulation(emulate: str, gpu: GpuIdentity) -> None:
    # Some drivers report a little under 15 GiB of a real T4.
    is_t4 = "T4" in gpu.name.split()

    if emulate and gpu.memory_bytes < _T4_MEMORY_BYTES and not is_t4:
        size_gib = gpu.memory_bytes / 2**30
        raise HardwareError(f"cannot emulate a T4 on {gpu.name}: {size_gib:.1f} GiB is less than 15; drop --emulate")


def dtype_for(capability: str, emulate: str = "") -> str:
    """Return the dtype to train in.

    Args:
        capability: CUDA compute capability such as "7.5"; "" on a CPU.
        emulate: "" or "t4".

    Returns:
        "bf16" from capability 8.0 on (emulated and slow before), "fp16" on older GPUs, "fp32" on a CPU.
    """
    if not capability:
        return "fp32"
    if _is_ampere_or_newer(capability) and not emulate:
        return "bf16"
    return "fp16"


def _is_ampere_or_newer(capability: str) -> bool:
    return int(capability.partition(".")[0]) >= 8


def _profile_cpu(quick: bool, while_waiting: Callable[[], object]) -> HardwareProfile:
    machine = _machine_facts()
    seconds = 0.4 if quick else 0.9
    request = _request("cpu", ["fp32"], warm_dtype="", seconds=seconds, threads=machine["cpu_count"])
    answer = _measured(request, visible="", watch=while_waiting)

    cpu = GpuIdentity(-1, "", machine["cpu_name"], machine["ram_bytes"], "", "", 0.0, 0.0, 0.0)
    return _assemble(cpu, 0, "", answer, None, machine)


def _profile_gpu(
    gpu: GpuIdentity, count: int, emulate: str, quick: bool, nvml: Any, while_waiting: Callable[[], object]
) -> HardwareProfile:
    machine = _machine_facts()
    dtypes = ["fp32", "fp16"]
    if _is_ampere_or_newer(gpu.capability):
        dtypes.append("bf16")
    warm_dtype = "" if quick else dtype_for(gpu.capability, emulate)
    seconds = 0.3 if quick else 1.0
    request = _request("cuda", dtypes, warm_dtype=warm_dtype, seconds=seconds, threads=machine["cpu_count"])

    samples: list[GpuSample] = []
    with GpuMonitor(gpu.index, nvml) as monitor:

        def watch() -> None:
            while_waiting()
            if (sample := monitor.sample()) is not None:
                samples.append(sample)

        watch()
        answer = _measured(request, visible=gpu.uuid, watch=watch)

    loaded = max(samples, key=lambda sample: sample.power_w or 0.0, default=None)
    return _assemble(gpu, count, emulate, answer, loaded, machine)


def _request(device: str, dtypes: list[str], *, warm_dtype: str, seconds: float, threads: int) -> dict[str, Any]:
    return {
        "task": "measure",
        "device": device,
        "dtypes": dtypes,
        "warm_dtype": warm_dtype,
        "seconds": seconds,
        "threads": threads,
    }


def _measured(request: dict[str, Any], visible: str, watch: Any = None) -> dict[str, Any]:
    try:
        return torch_probe.ask(request, _MEASURE_TIMEOUT_S, visible, watch)
    except torch_probe.ProbeError as error:
        name = {"cpu": "CPU", "cuda": "GPU"}[request["device"]]
        raise HardwareError(f"could not measure the {name}: {error}; run autotune doctor") from error


def _assemble(
    gpu: GpuIdentity,
    count: int,
    emulate: str,
    answer: dict[str, Any],
    sample: GpuSample | None,
    machine: dict[str, Any],
) -> HardwareProfile:
    """Put a profile together; for a CPU, `gpu` carries its name and memory and has no capability."""
    dtype = dtype_for(gpu.capability, emulate)
    has_flash_attention = bool(gpu.capability) and _is_ampere_or_newer(gpu.capability) and not emulate

    # torch may see less than the driver: what error correction, or a MIG slice, leaves.
    memory_bytes = min(gpu.memory_bytes, answer["memory_bytes"] or gpu.memory_bytes)
    if emulate:
        memory_bytes = min(memory_bytes, _T4_MEMORY_BYTES)
    identity = dataclasses.asdict(gpu) | {"count": count, "memory_bytes": memory_bytes}

    return HardwareProfile(
        **identity,
        **machine,
        device="cuda" if gpu.capability else "cpu",
        cuda_version=answer["cuda_version"],
        torch_version=answer["torch_version"],
        sm_clock_hz=(sample and sample.sm_clock_hz) or 0.0,
        memory_clock_hz=(sample and sample.memory_clock_hz) or 0.0,
        temperature_c=(sample and sample.temperature_c) or 0.0,
        throttle_reasons=sample.throttle_reasons if sample else (),
        matmul_flops=answer["matmul_flops"],
        matmul_flops_warm=answer["matmul_flops_warm"],
        copy_bytes_per_s=answer["copy_bytes_per_s"],
        dtype=dtype,
        flash_attention=has_flash_attention,
        emulate=emulate,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        noise=answer["noise"][dtype],
    )


def _machine_facts() -> dict[str, Any]:
    return {
        "python_version": platform.python_version(),
        "platform": platform.platform(),
        "cpu_name": host.cpu_name(),
        "cpu_count": host.usable_cores(),
        "ram_bytes": host.ram_bytes(),
    }
