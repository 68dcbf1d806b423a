"""The doctor: its real answer for this machine, and hand cases for machines that are not here."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_nvml import FakeNvml

from autotune.machine import cuda_support, doctor, doctor_gpu
from autotune.machine.doctor import diagnose, exit_code, render, to_json
from autotune.machine.doctor_gpu import Finding, Machine
from autotune.machine.nvml import GpuIdentity

GIB = 2**30
T4 = GpuIdentity(0, "GPU-aaaa", "Tesla T4", 15 * GIB, "7.5", "535.183.01", 70.0, 70.0, 1.59e9)


class HandMadeMachine(Machine):
    """A machine whose GPUs and torch are given."""

    def __init__(self, gpus: list[GpuIdentity], torch: dict[str, Any] | None) -> None:
        super().__init__(Path())
        self.__dict__ |= {"gpus": gpus, "torch": torch}  # where cached_property keeps its values


def torch_answer(cuda_version: str = "13.0", cuda_error: str = "", **gpu: Any) -> dict[str, Any]:
    described = {
        "name": "Tesla T4",
        "capability": "7.5",
        "native_bf16": False,
        "fp16_error": "",
        "bf16_error": "",
    } | gpu
    return {
        "torch_version": f"2.11.0+cu{cuda_version.replace('.', '')}",
        "cuda_version": cuda_version,
        "arch_list": [] if cuda_error else ["sm_75", "sm_80", "sm_90"],
        "gpus": [] if cuda_error else [described],
        "cuda_error": cuda_error,
    }


# ---- this machine -------------------------------------------------------------------------------------------------


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    findings = diagnose(tmp_path / "runs" / "not-there-yet")
    levels = {finding.subject: finding.level for finding in findings}
    assert levels["python"] == levels["torch"] == levels["writing"] == "ok"
    assert levels["hub"] == "warn"
    assert not [finding for finding in findings if "check itself failed" in finding.message]
    assert all(finding.remedy for finding in findings if finding.level != "ok")
    assert list(tmp_path.iterdir()) == []
    assert len(render(findings).splitlines()) == len(findings)
    assert json.loads(json.dumps(to_json(findings)))["findings"][0]["subject"] == "python"


def test_crashing_check_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def check_broken_thing(machine: Machine) -> list[Finding]:
        raise KeyError("surprise")

    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_python, check_broken_thing, doctor.check_ram))
    findings = diagnose(tmp_path)
    assert [finding.subject for finding in findings] == ["python", "broken thing", "ram"]
    assert findings[1].level == "warn"
    assert "KeyError: 'surprise'" in findings[1].message
    assert exit_code(findings) == 0


def test_torch_that_does_not_import_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A real child process with a real broken torch, first on its path."""
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (finding,) = doctor_gpu.check_torch(Machine(tmp_path))
    assert finding.level == "fail"
    assert "libcudart.so.13: cannot open" in finding.message
    assert "Get Started" in finding.remedy


def test_torch_that_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor_gpu, "_TORCH_TIMEOUT_S", 0.5)
    machine = Machine(tmp_path)
    (finding,) = doctor_gpu.check_torch(machine)
    assert finding == Finding("fail", "torch", "torch did not answer within 0.5 s in a child process", finding.remedy)
    assert doctor_gpu.check_capability(machine) == []


# ---- the driver against torch's build: hand cases ------------------------------------------------------------------


def test_t4_behind_an_older_driver_with_a_cuda_13_torch() -> None:
    torch = torch_answer("13.0", cuda_error="The NVIDIA driver on your system is too old (found version 12020).")
    (finding,) = doctor_gpu.check_driver(HandMadeMachine([T4], torch))
    assert finding == Finding(
        "fail",
        "driver",
        "Tesla T4 with driver 535.183.01 is too old for torch's CUDA 13.0, which needs driver >= 580",
        "install NVIDIA driver 580 or newer, or install a torch build for CUDA 12.6 (see PyTorch's Get Started page)",
    )


@pytest.mark.parametrize(
    ("driver", "build", "error", "level", "remedy"),
    [
        ("580.65.06", "13.0", "", "ok", ""),
        ("535.183.01", "12.6", "", "ok", ""),
        ("535.183.01", "13.0", "", "ok", ""),  # forward-compatibility package: it works
        ("525.60.13", "12.8", "", "ok", ""),
        ("470.82.01", "12.6", "too old", "fail", "install NVIDIA driver 525 or newer"),
        ("470.82.01", "13.0", "too old", "fail", "install NVIDIA driver 580 or newer"),
        ("580.65.06", "", "", "fail", "install a torch build for CUDA 13.0 (see PyTorch's Get Started page)"),
        ("550.54.15", "", "", "fail", "install a torch build for CUDA 12.6 (see PyTorch's Get Started page)"),
        ("390.116", "", "", "fail", "install a newer NVIDIA driver, then a torch build with CUDA"),
    ],
)
def test_driver_table(driver: str, build: str, error: str, level: str, remedy: str) -> None:
    finding = doctor_gpu.driver_finding("Tesla T4", driver, build, error)
    assert (finding.level, finding.remedy) == (level, remedy)


def test_new_driver_that_torch_cannot_use_shows_torchs_words() -> None:
    finding = doctor_gpu.driver_finding("Tesla T4", "580.1", "13.0", "CUDA-capable device(s) is/are busy")
    assert finding.level == "fail"
    assert "busy" in finding.message
    assert "nvidia-smi" in finding.remedy


@pytest.mark.parametrize(
    ("cuda_version", "driver"), [("11.8", 450), ("12.0", 525), ("12.8", 525), ("13.0", 580), ("13.2", 580)]
)
def test_minimum_driver(cuda_version: str, driver: int) -> None:
    assert cuda_support.minimum_driver(cuda_version) == driver


@pytest.mark.parametrize(
    ("driver", "build"), [("580.65", "13.0"), ("579.9", "12.6"), ("525.60.13", "12.6"), ("524.1", "")]
)
def test_fitting_cuda(driver: str, build: str) -> None:
    assert cuda_support.fitting_cuda(driver) == build


@pytest.mark.parametrize(
    ("capability", "arch_list", "fits"),
    [
        ("7.5", ["sm_75", "sm_80"], True),
        ("7.0", ["sm_75", "sm_80"], False),
        ("8.9", ["sm_80", "sm_90"], True),
        ("8.0", ["sm_86"], False),
        ("12.0", ["sm_90", "sm_100"], False),
        ("12.0", ["sm_90", "compute_90"], True),
        ("9.0", ["sm_90a"], True),
        ("10.0", ["sm_90a", "sm_100f"], True),
        ("9.0", [], False),
    ],
)
def test_code_for_a_capability(capability: str, arch_list: list[str], fits: bool) -> None:
    assert cuda_support.has_code_for(capability, arch_list) is fits


def test_card_without_code_in_this_torch() -> None:
    torch = torch_answer(name="Tesla V100", capability="7.0")
    (finding,) = doctor_gpu.check_capability(HandMadeMachine([T4], torch))
    assert finding.level == "fail"
    assert finding.message == "Tesla V100 is capability 7.0; this torch has only sm_75 sm_80 sm_90"


@pytest.mark.parametrize(
    ("gpu", "level", "words"),
    [
        ({}, "ok", "no real bf16 on this card, so fp16 with loss scaling"),
        ({"native_bf16": True}, "ok", "native bf16"),
        ({"fp16_error": "CUBLAS_STATUS_NOT_SUPPORTED"}, "fail", "fp16 does not work: CUBLAS_STATUS_NOT_SUPPORTED"),
        ({"native_bf16": True, "bf16_error": "wrong by 9"}, "fail", "bf16 does not work: wrong by 9"),
        ({"native_bf16": True, "fp16_error": "wrong by 9"}, "warn", "fp16 does not work"),
    ],
)
def test_half_precision(gpu: dict[str, Any], level: str, words: str) -> None:
    (finding,) = doctor_gpu.check_half_precision(HandMadeMachine([T4], torch_answer(**gpu)))
    assert finding.level == level
    assert words in finding.message


def test_python_version() -> None:
    assert doctor.python_finding((3, 11, 0)).level == "ok"
    assert doctor.python_finding((3, 10, 14)).level == "fail"


# ---- the GPU now: a fake NVML --------------------------------------------------------------------------------------


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return FakeNvml(uuids=("GPU-aaaa-1",))


def test_gpu_memory_users_and_clocks(fake_gpu: FakeNvml, tmp_path: Path) -> None:
    machine = Machine(tmp_path, fake_gpu)
    assert doctor_gpu.check_gpu(machine) == [Finding("ok", "gpu 0", "Tesla T4, 15.0 GiB, 12.0 GiB free")]
    (clocks,) = doctor_gpu.check_clocks(machine)
    assert clocks.level == "warn"
    assert clocks.message == "1215 MHz of 1590 MHz, 71 C, limited by: power cap, thermal (software)"
    fake_gpu.reasons = 0x4  # a T4 at its 70 W is at its power cap all night: nothing to warn of
    assert doctor_gpu.check_clocks(machine)[0].level == "ok"
    assert doctor_gpu.check_gpu_users(machine)[0].level == "ok"
    fake_gpu.processes = [SimpleNamespace(pid=1, usedGpuMemory=GIB)]
    (users,) = doctor_gpu.check_gpu_users(machine)
    assert (users.level, users.message) == ("warn", "PID 1 on GPU 0 (1.0 GiB)")


def test_lost_gpu(fake_gpu: FakeNvml, tmp_path: Path) -> None:
    fake_gpu.failures["nvmlDeviceGetHandleByIndex"] = 15
    (finding,) = doctor_gpu.check_gpu(Machine(tmp_path, fake_gpu))
    assert (finding.level, finding.message) == ("fail", "GPU stopped answering")


def test_hidden_gpus_are_explained(fake_gpu: FakeNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    (finding,) = doctor_gpu.check_gpu(Machine(tmp_path, fake_gpu))
    assert finding.level == "warn"
    assert "CUDA_VISIBLE_DEVICES is '-1'" in finding.message


# ---- disk, network, browser ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free_bytes", "level"), [(5 * 10**8, "fail"), (5 * 10**9, "warn"), (5 * 10**10, "ok")])
def test_free_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_bytes: int, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))
    (finding,) = doctor.check_disk(Machine(tmp_path))
    assert finding.level == level


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    path.write_text("not a folder")
    for folder in (path, path / "study"):
        (finding,) = doctor.check_writing(Machine(folder))
        assert finding.level == "fail"
        assert finding.message == f"cannot write in {path}: Not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    (finding,) = doctor.check_writing(Machine(tmp_path))
    assert finding.level == "fail"


def test_slow_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_SLOW_WRITE_S", 0.0)
    assert doctor.check_writing(Machine(tmp_path))[0].level == "warn"


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Hub(BaseHTTPRequestHandler):
    """Answers HEAD: 200 at the root, 503 elsewhere."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/" else 503)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_hub_reached_refused_and_silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert hub_finding(monkeypatch, f"{address}/").level == "ok"
        assert "HTTP status 503" in hub_finding(monkeypatch, f"{address}/down").message
        server.shutdown()
    refused = hub_finding(monkeypatch, f"http://127.0.0.1:{closed_port()}")
    assert "refused" in refused.message
    assert "work offline" in refused.remedy
    monkeypatch.setattr(doctor, "_HUB_TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert hub_finding(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}").level == "warn"


def hub_finding(monkeypatch: pytest.MonkeyPatch, address: str) -> Finding:
    monkeypatch.setenv("HF_ENDPOINT", address)
    (finding,) = doctor.check_hub(Machine(Path()))
    return finding


def test_browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = doctor.check_browser(Machine(tmp_path))
    assert finding.level == "warn"
    assert finding.message.startswith("PNG skipped: ")
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\n")
    browser.chmod(0o755)
    (tmp_path / "kaleido.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert doctor.check_browser(Machine(tmp_path)) == [Finding("ok", "browser", f"PNG export through {browser}")]


# ---- what is printed -----------------------------------------------------------------------------------------------


def test_lines_are_aligned_and_harmless() -> None:
    findings = [
        Finding("ok", "ram", "8.0 GiB free"),
        Finding("warn", "browser", "PNG skipped", "install \x1b[31mit"),
        Finding("fail", "disk", "full\nfake line", "free some"),
    ]
    assert render(findings) == (
        "ok    ram:     8.0 GiB free\n"
        "warn  browser: PNG skipped  -> install ?[31mit\n"
        "fail  disk:    full?fake line  -> free some"
    )
    assert render([]) == ""


def test_only_a_failure_changes_the_exit_code() -> None:
    assert exit_code([]) == exit_code([Finding("ok", "a", ""), Finding("warn", "b", "", "c")]) == 0
    assert exit_code([Finding("ok", "a", ""), Finding("fail", "b", "", "c")]) == 3
    assert to_json([Finding("fail", "b", "m", "c")]) == {
        "exit_code": 3,
        "findings": [{"level": "fail", "subject": "b", "message": "m", "remedy": "c"}],
    }
