"""The CPU and RAM that this process may really use: affinity and control groups (containers) included."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path


def cpu_name() -> str:
    """Return the processor's name.

    Returns:
        Its model name, or the architecture where the system does not tell.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many physical cores this process may use.

    Returns:
        Cores in its affinity mask, hyper-threads counted once, and at most its cgroup's quota; at least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})
    else:
        import psutil  # type: ignore[import-untyped, unused-ignore]

        cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return max(1, min(cores, int(_cgroup_cpus())))


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def ram_bytes() -> int:
    """Return the RAM that this process may use.

    Returns:
        Bytes: the machine's total, or its cgroup's limit where that is less.
    """
    import psutil  # type: ignore[import-untyped, unused-ignore]

    limits = [int(text) for text in _cgroup_texts("memory.max", "memory/memory.limit_in_bytes") if text.isdigit()]
    return min([int(psutil.virtual_memory().total), *limits])


def _cgroup_cpus() -> float:
    """CPUs that the cgroup's quota allows, as a fraction; a large number without a quota."""
    cpus = [float(os.cpu_count() or 1)]
    for text in _cgroup_texts("cpu.max"):
        quota, period = text.split()
        if quota != "max":
            cpus.append(int(quota) / int(period))
    quotas, periods = (list(_cgroup_texts("", f"cpu/cpu.cfs_{word}_us")) for word in ("quota", "period"))
    cpus += [int(quota) / int(period) for quota, period in zip(quotas, periods, strict=False) if int(quota) > 0]
    return min(cpus)


def _cgroup_texts(v2_name: str, v1_name: str = "") -> Iterator[str]:
    """Contents of this process's cgroup files, also of the groups around it, whose limits bind as well."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        root, name = Path("/sys/fs/cgroup"), v2_name
        if controllers:
            folder, _, name = v1_name.partition("/")
            if not name or folder not in controllers.split(","):
                continue
            root /= folder
        here = root / group.strip("/")
        for path in (here, *here.parents):
            if name and path.is_relative_to(root) and (path / name).is_file():
                yield (path / name).read_text().strip()
