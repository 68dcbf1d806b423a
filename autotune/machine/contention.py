"""Whether other processes take the CPU or the GPU that trainings run on."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.core.text import in_bytes
from autotune.machine.gpu_monitor import GpuSample

_SAMPLE_EVERY_S = 60.0
"""Seconds over which waiting for the CPU is measured."""
_CROWDED_FRAC = 0.25
"""Share of its runnable time that a training waits for a core when the CPU is called crowded."""
_FREE_FRAC = 0.1
"""Share below which it is called free again."""


@dataclass(frozen=True)
class CpuTimes:
    """What the scheduler has given to processes so far, in seconds of all of their threads."""

    running_s: float
    waiting_s: float


def cpu_times(pids: Collection[int]) -> CpuTimes | None:
    """Return how long the threads of processes have run, and how long they were ready to but waited for a core.

    Source: /proc/PID/task/*/schedstat, whose first two numbers are these in nanoseconds; see proc(5).

    Args:
        pids: Process numbers.

    Returns:
        None where the system does not tell.
    """
    running_ns = waiting_ns = 0
    is_told = False

    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                running, waiting, *_ = map(int, path.read_text().split())
            except (OSError, ValueError):  # a thread that has ended, or a kernel without these figures
                continue
            running_ns += running
            waiting_ns += waiting
            is_told = True

    return CpuTimes(running_ns * 1e-9, waiting_ns * 1e-9) if is_told else None


class Contention:
    """Tells when other processes begin to take the CPU or the GPU, and when they leave the CPU again."""

    def __init__(self) -> None:
        self._sampled = time.monotonic()
        self._before: tuple[frozenset[int], CpuTimes | None] = (frozenset(), None)
        self._is_crowded = False
        self._others: frozenset[int] = frozenset()

    def cpu_news(self, pids: Sequence[int], every_s: float = _SAMPLE_EVERY_S) -> str:
        """Return what is to be said about the CPU, or "".

        Args:
            pids: The processes that are training.
            every_s: Seconds over which waiting is measured.
        """
        now = time.monotonic()
        trained_on, before = self._before
        if trained_on == frozenset(pids) and now - self._sampled < every_s:
            return ""

        times = cpu_times(pids)
        self._sampled = now
        self._before = frozenset(pids), times
        if trained_on != frozenset(pids) or times is None or before is None:
            return ""

        waited_s = times.waiting_s - before.waiting_s
        ready_s = waited_s + times.running_s - before.running_s
        return self._judge(waited_s / ready_s) if ready_s > 0 else ""

    def _judge(self, waited_frac: float) -> str:
        if not self._is_crowded and waited_frac > _CROWDED_FRAC:
            self._is_crowded = True
            return (
                f"other processes use the CPU: the training has waited for a core {waited_frac:.0%} of the time, so it "
                "takes longer; results stay comparable, since all trials train to the same length"
            )

        if self._is_crowded and waited_frac < _FREE_FRAC:
            self._is_crowded = False
            return "the CPU is free again"
        return ""

    def gpu_news(self, sample: GpuSample) -> str:
        """Return what is to be said about other processes on the GPU, or "".

        Args:
            sample: The GPU's latest reading.
        """
        newcomers = {pid: used for pid, used in sample.other_processes if pid not in self._others}
        self._others = frozenset(pid for pid, _ in sample.other_processes)
        if not newcomers:
            return ""

        parts = []
        for pid, used_bytes in newcomers.items():
            memory = f" with {in_bytes(used_bytes)} of memory" if used_bytes else ""
            parts.append(f"process {pid}{memory}")
        return f"the GPU is also used by {', '.join(parts)}: trainings take longer, and may run out of memory"
