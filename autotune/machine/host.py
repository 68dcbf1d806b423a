"""The CPU and RAM that this process may really use: affinity and control groups (containers) included."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

THREAD_WAITING: Mapping[str, str] = {"GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "1"}
"""How the threads of a pass wait for each other: rounds of spinning for GNU's OpenMP, milliseconds for LLVM's.

By their own default they spin for so long that a thread which waits takes the core from the one it waits for, wherever
another process is busy too: beside two of them a training on two cores took 13 times as long, with these values 5
times, and on an idle machine about a tenth longer (tests/benchmarks/RESULTS.md; LLVM's was not measured)."""


def choose_thread_waiting(environment: MutableMapping[str, str]) -> None:
    """Set how threads wait for each other, unless the user has; it must come before torch is imported.

    Args:
        environment: The variables of this process, which its children inherit.
    """
    if not environment.keys() & {*THREAD_WAITING, "OMP_WAIT_POLICY"}:
        environment.update(THREAD_WAITING)


def cpu_name() -> str:
    """Return the processor's model name, or its architecture where the system does not report one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []

    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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

    total = int(psutil.virtual_memory().total)
    limits = [int(text) for text in _cgroup_texts("memory.max", "memory/memory.limit_in_bytes") if text.isdigit()]

    return min([total, *limits])


def _cgroup_cpus() -> float:
    """Return the CPUs that the cgroup's quota allows, which may be a fraction; all of them without a quota."""
    cpus = [float(os.cpu_count() or 1)]

    for text in _cgroup_texts("cpu.max"):
        quota, period = text.split()
        if quota != "max":
            cpus.append(int(quota) / int(period))

    # The first version of control groups has a file for each, and a quota of -1 for none.
    quotas = _cgroup_texts("", "cpu/cpu.cfs_quota_us")
    periods = _cgroup_texts("", "cpu/cpu.cfs_period_us")
    for quota, period in zip(quotas, periods, strict=False):
        if int(quota) > 0:
            cpus.append(int(quota) / int(period))

    return min(cpus)


def _cgroup_texts(v2_name: str, v1_name: str = "") -> Iterator[str]:
    """Yield the contents of this process's cgroup files, and of the groups around it, whose limits bind as well.

    Args:
        v2_name: The file's name in the second version of control groups; "" for none.
        v1_name: "controller/file" in the first version; "" for none.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return

    for line in lines:
        _, controllers, group = line.split(":", 2)
        root = Path("/sys/fs/cgroup")
        name = v2_name

        # Only lines of the first version name controllers.
        if controllers:
            controller, _, name = v1_name.partition("/")
            if controller not in controllers.split(","):
                continue
            root /= controller
        if not name:
            continue

        own_group = root / group.strip("/")
        for path in (own_group, *own_group.parents):
            if path.is_relative_to(root) and (path / name).is_file():
                yield (path / name).read_text().strip()
