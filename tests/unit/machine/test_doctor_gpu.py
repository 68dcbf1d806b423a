"""The doctor's checks of torch, the driver and GPUs, by hand cases for machines that are not here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_nvml import FakeNvml

from autotune.machine import doctor_gpu
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


def test_t4_behind_an_older_driver_with_a_cuda_13_torch() -> None:
    torch = torch_answer("13.0", cuda_error="The NVIDIA driver on your system is too old (found version 12020).")
    (finding,) = doctor_gpu.check_driver(HandMadeMachine([T4], torch))
    assert finding == Finding(
        "fail",
        "driver",
        "Tesla T4: driver 535.183.01 is too old for torch's CUDA 13.0, which needs driver 580 or newer",
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


def test_card_without_code_in_this_torch() -> None:
    torch = torch_answer(name="Tesla V100", capability="7.0")
    (finding,) = doctor_gpu.check_capability(HandMadeMachine([T4], torch))
    assert finding.level == "fail"
    assert finding.message == "Tesla V100 has compute capability 7.0, but this torch supports only sm_75 sm_80 sm_90"


@pytest.mark.parametrize(
    ("gpu", "level", "words"),
    [
        ({}, "ok", "no native bf16 on this card, so runs use fp16 with loss scaling"),
        ({"native_bf16": True}, "ok", "native bf16, which runs use"),
        ({"fp16_error": "CUBLAS_STATUS_NOT_SUPPORTED"}, "fail", "fp16 does not work: CUBLAS_STATUS_NOT_SUPPORTED"),
        ({"native_bf16": True, "bf16_error": "wrong by 9"}, "fail", "bf16 does not work: wrong by 9"),
        ({"native_bf16": True, "fp16_error": "wrong by 9"}, "warn", "fp16 does not work"),
    ],
)
def test_half_precision(gpu: dict[str, Any], level: str, words: str) -> None:
    (finding,) = doctor_gpu.check_half_precision(HandMadeMachine([T4], torch_answer(**gpu)))
    assert finding.level == level
    assert words in finding.message


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
