"""The checks of `autotune doctor`: whether this machine is ready for a night's run, and what to do if not."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autotune.core.files import free_bytes, nearest_existing
from autotune.machine import host
from autotune.machine.doctor_gpu import (
    Finding,
    Machine,
    check_capability,
    check_clocks,
    check_driver,
    check_gpu,
    check_gpu_users,
    check_half_precision,
    check_torch,
    gib,
)

_HUB_TIMEOUT_S = 3.0
_HUB = "https://huggingface.co"
# A night's study with its checkpoints takes a few GB.
_DISK_WARN_BYTES = 10 * 10**9
_DISK_FAIL_BYTES = 10**9
_RAM_WARN_BYTES = 4 * 10**9
# For 1 MiB and fsync: a metric line must not wait for the disk.
_SLOW_WRITE_S = 1.0
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

_Check = Callable[[Machine], list[Finding]]


def diagnose(folder: Path, nvml: Any = None) -> list[Finding]:
    """Run every check and return its findings.

    Args:
        folder: Where runs will be written; it need not exist yet.
        nvml: The NVML module to use; None imports `pynvml`.

    Returns:
        Findings, in the order of the checks. A check that fails itself gives a warning.
    """
    machine = Machine(folder, nvml)

    findings = []
    for check in CHECKS:
        findings += _run(check, machine)
    return findings


def _run(check: _Check, machine: Machine) -> list[Finding]:
    try:
        return check(machine)
    except Exception as error:  # noqa: BLE001 - a broken check must not hide the others
        subject = check.__name__.removeprefix("check_").replace("_", " ")
        words = f"the check itself failed ({type(error).__name__}: {error})"
        return [Finding("warn", subject, words, "report it as a bug; the other checks are complete")]


def exit_code(findings: Sequence[Finding]) -> int:
    """Return the exit code of `autotune doctor`.

    Args:
        findings: What `diagnose` returned.

    Returns:
        3 when one of them is a failure, else 0.
    """
    has_failure = any(finding.level == "fail" for finding in findings)
    return 3 if has_failure else 0


def render(findings: Sequence[Finding]) -> str:
    """Return the findings as aligned plain lines.

    Args:
        findings: What `diagnose` returned.

    Returns:
        One line each, `level  subject: message  -> remedy`, with control characters replaced by "?".
    """
    width = max((len(finding.subject) for finding in findings), default=0) + 1

    lines = []
    for finding in findings:
        subject = f"{finding.subject}:"
        remedy = f"  -> {finding.remedy}" if finding.remedy else ""
        lines.append(_printable(f"{finding.level:<4}  {subject:<{width}} {finding.message}{remedy}"))

    return "\n".join(lines)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings for machines.

    Args:
        findings: What `diagnose` returned.

    Returns:
        `{"exit_code": 0 or 3, "findings": [{"level", "subject", "message", "remedy"}, ...]}`.
    """
    return {
        "exit_code": exit_code(findings),
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }


def check_python(machine: Machine) -> list[Finding]:
    """Check that Python is 3.11 or newer."""
    return [python_finding(sys.version_info[:3])]


def python_finding(version: tuple[int, ...]) -> Finding:
    """Return a finding on whether a Python version, such as (3, 11, 7), is new enough."""
    words = ".".join(str(part) for part in version)
    if version < (3, 11):
        return Finding("fail", "python", f"{words} is too old", "install Python 3.11 or newer")
    return Finding("ok", "python", words)


def check_ram(machine: Machine) -> list[Finding]:
    """Check that there is enough RAM for a worker and the report."""
    import psutil  # type: ignore[import-untyped, unused-ignore]

    total_bytes = host.ram_bytes()
    free_bytes = min(int(psutil.virtual_memory().available), total_bytes)
    message = f"{gib(free_bytes)} free of {gib(total_bytes)}"

    if free_bytes < _RAM_WARN_BYTES:
        return [Finding("warn", "ram", message, "close other programs: a worker with torch needs 2 to 4 GB")]
    return [Finding("ok", "ram", message)]


def check_disk(machine: Machine) -> list[Finding]:
    """Check that the run's disk has room."""
    free = free_bytes(machine.folder)
    message = f"{free / 1e9:.1f} GB free for {machine.folder}"
    remedy = "free some space, or choose another folder"

    if free < _DISK_FAIL_BYTES:
        return [Finding("fail", "disk", message, remedy)]
    if free < _DISK_WARN_BYTES:
        return [Finding("warn", "disk", message, remedy)]
    return [Finding("ok", "disk", message)]


def check_writing(machine: Machine) -> list[Finding]:
    """Check that the run's folder can be written, durably and fast."""
    folder = nearest_existing(machine.folder)

    try:
        start_s = time.perf_counter()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(os.urandom(2**20))
            file.flush()
            os.fsync(file.fileno())
        took_s = time.perf_counter() - start_s
    except OSError as error:
        message = f"cannot write in {folder}: {error.strerror or error}"
        return [Finding("fail", "writing", message, "choose a folder that you may write to")]

    message = f"1 MiB written and synced in {took_s * 1e3:.0f} ms in {folder}"
    if took_s > _SLOW_WRITE_S:
        return [Finding("warn", "writing", message, "choose a folder on a local disk")]
    return [Finding("ok", "writing", message)]


def check_hub(machine: Machine) -> list[Finding]:
    """Check that the model and data hub answers."""
    address = os.environ.get("HF_ENDPOINT", _HUB)
    error = _hub_error(address)
    if not error:
        return [Finding("ok", "hub", f"{address} answers")]

    remedy = (
        "studies that use the built-in text or your own files work offline; for a data set of the hub run "
        "`hf download NAME --repo-type dataset` where there is a network, bring HF_HOME here and set HF_HUB_OFFLINE=1"
    )
    return [Finding("warn", "hub", f"{address} cannot be reached: {error}", remedy)]


def _hub_error(address: str) -> str:
    """Return why the hub does not answer, "" if it does."""
    outcomes = [f"no answer within {_HUB_TIMEOUT_S:g} s"]

    # In a thread, since looking up a name has no time limit of its own.
    caller = threading.Thread(target=lambda: outcomes.append(_head_error(address)), daemon=True)
    caller.start()
    caller.join(_HUB_TIMEOUT_S + 0.5)

    return outcomes[-1]


def _head_error(address: str) -> str:
    import urllib.error  # here, since it costs 30 ms that `autotune --help` should not pay
    import urllib.request

    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP status {error.code}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError) as error:
        return str(error)


def check_browser(machine: Machine) -> list[Finding]:
    """Check that figures can be exported as PNG."""
    names = [os.environ.get("BROWSER_PATH", ""), *_BROWSERS]
    paths = [shutil.which(name) for name in names]
    browser = next((path for path in paths if path), None)

    missing = []
    if importlib.util.find_spec("kaleido") is None:
        missing.append("the Python package kaleido")
    if browser is None:
        missing.append("a Chrome or Chromium browser")
    if not missing:
        return [Finding("ok", "browser", f"PNG export through {browser}")]

    remedy = "the HTML report is complete without PNG files; to have those too, install what is missing"
    return [Finding("warn", "browser", f"PNG skipped: cannot find {' or '.join(missing)}", remedy)]


CHECKS: tuple[_Check, ...] = (
    check_python,
    check_torch,
    check_gpu,
    check_driver,
    check_capability,
    check_half_precision,
    check_gpu_users,
    check_clocks,
    check_ram,
    check_disk,
    check_writing,
    check_hub,
    check_browser,
)
