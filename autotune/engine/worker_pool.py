"""The resident workers of all device slots: idle or busy, and replaced after a fault."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.engine.worker import Slot, Worker, ready


class WorkerPool:
    """One worker for each slot, warm from training to training.

    Args:
        slots: Devices to use.
        trainer: The trainer's name, "package.module:function".
    """

    def __init__(self, slots: Sequence[Slot], trainer: str) -> None:
        self._trainer = trainer
        self._idle = [Worker(slot, trainer) for slot in slots]
        self._busy: list[Worker] = []

    @property
    def has_idle(self) -> bool:
        """Whether a worker has nothing to do."""
        return bool(self._idle)

    @property
    def busy_pids(self) -> list[int]:
        """Process numbers of the workers that train."""
        return [worker.pid for worker in self._busy]

    def take(self) -> Worker:
        """Return an idle worker, which is busy from now on."""
        worker = self._idle.pop()
        self._busy.append(worker)
        return worker

    def give_back(self, worker: Worker) -> None:
        """Take back a busy worker, which is idle from now on."""
        self._busy.remove(worker)
        self._idle.append(worker)

    def replace(self, worker: Worker) -> None:
        """Kill a busy worker and start another on its slot: after a fault its device state is not to be trusted."""
        self._busy.remove(worker)
        worker.kill()
        self._idle.append(Worker(worker.slot, self._trainer))

    def ready(self, timeout_s: float) -> list[Worker]:
        """Return the busy workers that have something to say or have died, waiting for the first.

        Args:
            timeout_s: Longest wait in seconds.
        """
        return ready(self._busy, timeout_s)

    def close(self) -> None:
        """End every worker; trials that still run are left for the next run to take up."""
        for worker in self._busy:
            worker.kill()
        for worker in self._idle:
            worker.close()
