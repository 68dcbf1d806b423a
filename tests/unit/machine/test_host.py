"""The CPU and RAM that this process may really use: affinity, and quotas of control groups."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autotune.machine import host


def test_usable_cores_respect_the_affinity_mask() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from autotune.machine import host\n"
    code += "print(host.usable_cores())"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30).stdout
    assert out.strip() == "1"
    assert host.usable_cores() >= 1


def fake_files(monkeypatch: pytest.MonkeyPatch, root: Path, files: dict[str, str]) -> None:
    """Lets the module read files below a folder as if they lay at the root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(host, "Path", lambda name: root / name.lstrip("/"))


def test_the_name_of_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_files(monkeypatch, tmp_path, {"proc/cpuinfo": "processor : 0\nmodel name : Fast CPU: 3 GHz\nflags : x\n"})
    assert host.cpu_name() == "Fast CPU: 3 GHz"


def test_a_processor_without_a_model_name_is_named_by_its_architecture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_files(monkeypatch, tmp_path, {"proc/cpuinfo": "processor : 0\n"})
    assert host.cpu_name()


CGROUP_V2 = {
    "proc/self/cgroup": "0::/outer/inner\n",
    "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
    "sys/fs/cgroup/outer/inner/memory.max": "max\n",
    # The group around it has the quotas, and they bind as well.
    "sys/fs/cgroup/outer/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/outer/memory.max": "1048576\n",
}
CGROUP_V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n1:name=systemd:/\n",
    "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1048576\n",
}


@pytest.mark.parametrize("files", [CGROUP_V2, CGROUP_V1])
def test_quotas_of_control_groups_bind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str]) -> None:
    fake_files(monkeypatch, tmp_path, files)
    assert host._cgroup_cpus() == 0.5
    assert host.usable_cores() == 1
    assert host.ram_bytes() == 2**20


def test_a_quota_of_minus_one_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_files(monkeypatch, tmp_path, CGROUP_V1 | {"sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "-1\n"})
    assert host._cgroup_cpus() >= 1


@pytest.mark.parametrize(
    ("before", "is_set"), [({}, True), ({"OMP_WAIT_POLICY": "ACTIVE"}, False), ({"GOMP_SPINCOUNT": "1"}, False)]
)
def test_how_threads_wait_is_set_unless_the_user_has(before: dict[str, str], is_set: bool) -> None:
    environment = dict(before)
    host.choose_thread_waiting(environment)
    assert environment == (dict(host.THREAD_WAITING) if is_set else before)
