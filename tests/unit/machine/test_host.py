"""The CPU that this process may really use."""

from __future__ import annotations

import subprocess
import sys

from autotune.machine import host


def test_usable_cores_respect_the_affinity_mask() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from autotune.machine import host\n"
    code += "print(host.usable_cores())"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30).stdout
    assert out.strip() == "1"
    assert host.usable_cores() >= 1
