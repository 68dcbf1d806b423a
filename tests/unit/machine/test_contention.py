"""Other processes on the CPU, by the kernel's own count, and on the GPU, by a driver that answers from here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from fake_nvml import FakeNvml

from autotune.machine.contention import Contention, CpuTimes, cpu_times
from autotune.machine.gpu_monitor import GpuMonitor, GpuSample

BUSY = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long threads wait for a core")


@pytest.fixture
def rivals() -> Iterator[list[int]]:
    """Three processes that want the same core all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(3)]
    yield [process.pid for process in processes]
    for process in processes:
        process.kill()
        process.wait()


@needs_linux
def test_a_process_that_shares_its_core_waits_for_it(rivals: list[int]) -> None:
    time.sleep(0.5)
    before = cpu_times(rivals[:1])
    time.sleep(1.0)
    after = cpu_times(rivals[:1])
    assert before is not None and after is not None
    waited, ran = after.waiting_s - before.waiting_s, after.running_s - before.running_s
    assert waited / (waited + ran) > 0.4


@needs_linux
def test_a_process_that_sleeps_waits_for_nothing() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    time.sleep(0.5)
    times = cpu_times([sleeper.pid])
    assert times is not None and times.running_s < 1.0
    sleeper.kill()
    sleeper.wait()
    assert cpu_times([sleeper.pid]) is None


def test_a_crowded_cpu_is_told_once_and_so_is_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(10, 0), (15, 5), (20, 10), (30, 10.5), (40, 10.5)])
    monkeypatch.setattr("autotune.machine.contention.cpu_times", lambda _: CpuTimes(*next(readings)))
    contention = Contention()
    told = [contention.cpu_news([7], every_s=0.0) for _ in range(5)]
    assert told[0] == told[2] == told[4] == ""
    assert "other processes use the CPU: the training has waited for a core 50% of the time" in told[1]
    assert told[3] == "the CPU is free again"


def test_another_training_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(10, 0), (1, 9), (2, 18)])
    monkeypatch.setattr("autotune.machine.contention.cpu_times", lambda _: CpuTimes(*next(readings)))
    contention = Contention()
    assert [contention.cpu_news([pid], every_s=0.0) for pid in (7, 8)] == ["", ""]
    assert "90% of the time" in contention.cpu_news([8], every_s=0.0)


def sample_of(pids: list[tuple[int, int]]) -> GpuSample:
    fake = FakeNvml()
    fake.processes = [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in pids]
    with GpuMonitor(0, fake) as monitor:
        sample = monitor.sample()
    assert sample is not None
    return sample


def test_others_on_the_gpu_are_told_once() -> None:
    contention = Contention()
    mine, other = (os.getpid(), 2**30), (1, 3 * 10**9)
    assert contention.gpu_news(sample_of([mine])) == ""
    news = contention.gpu_news(sample_of([mine, other]))
    assert news.startswith("the GPU is also used by process 1 with 3.0 GB of memory: ")
    assert contention.gpu_news(sample_of([mine, other])) == ""


def test_a_container_in_which_the_driver_counts_otherwise_raises_no_alarm() -> None:
    assert sample_of([(1, 3 * 10**9)]).other_processes == ()
