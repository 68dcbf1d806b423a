"""Workers without processes: a generator stands for the trainer, and speaks as one does over its pipe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from autotune.core.records import EvalPoint
from autotune.engine.worker import Done, Job, Message, Progress, Slot

Script = Callable[[Job], Generator[Message | None, Any, None]]
"""Plays a trainer: yields what its worker says, None for the death of its process, and is sent the answers."""


def training(*losses: float, facts: dict[str, Any] | None = None, **metrics: float) -> Script:
    """A trainer with evaluations at equal distances, one for each loss, that ends when it is told to."""

    def script(job: Job) -> Generator[Message | None, Any, None]:
        for number, loss in enumerate(losses, start=1):
            tokens = round(job.budget_tokens * number / len(losses))
            if not (yield Progress(EvalPoint(tokens, loss, metrics))):
                break
        yield Done(facts or {})

    return script


class ScriptedWorker:
    """A worker that plays a script; `jobs` and `answers` are what it was told."""

    def __init__(self, slot: Slot, script: Script) -> None:
        self.slot = slot
        self.has_trained = False
        self.jobs: list[Job] = []
        self.answers: list[bool | int] = []
        self.script = script
        self._playing: Generator[Message | None, Any, None] | None = None
        self._said: list[Message | None] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self._playing = self.script(job)
        self._say(lambda playing: next(playing))

    def answer(self, answer: bool | int) -> None:
        self.answers.append(answer)
        self._say(lambda playing: playing.send(answer))

    def _say(self, go_on: Callable[[Generator[Message | None, Any, None]], Message | None]) -> None:
        assert self._playing is not None
        with contextlib.suppress(StopIteration):  # it is silent from here on: it hangs
            self._said.append(go_on(self._playing))

    @property
    def has_something_to_say(self) -> bool:
        return bool(self._said)

    def receive(self) -> Message | None:
        return self._said.pop(0)

    def cause_of_death(self) -> str:
        return "its worker was killed by SIGKILL"


class ScriptedPool:
    """As a WorkerPool; it notes how many workers are busy at once, and each wait for silent ones.

    Args:
        script: What every worker plays.
        slots: Number of workers.
        on_wait: Called with the seconds of a wait in which nobody has anything to say.
    """

    def __init__(self, script: Script, slots: int = 1, on_wait: Callable[[float], None] = lambda seconds: None) -> None:
        self.workers = [ScriptedWorker(Slot(f"slot {number}"), script) for number in range(slots)]
        self.idle = list(self.workers)
        self.busy: list[ScriptedWorker] = []
        self.most_busy = 0
        self._script = script
        self._on_wait = on_wait

    def play(self, script: Script) -> None:
        """Has every worker play another script from its next job on."""
        self._script = script
        for worker in self.workers:
            worker.script = script

    @property
    def busy_pids(self) -> list[int]:
        """None: these workers are no processes."""
        return []

    @property
    def has_idle(self) -> bool:
        return bool(self.idle)

    @property
    def jobs(self) -> list[Job]:
        """Everything that was submitted, worker by worker."""
        return [job for worker in self.workers for job in worker.jobs]

    @property
    def answers(self) -> list[bool | int]:
        return [answer for worker in self.workers for answer in worker.answers]

    def take(self) -> ScriptedWorker:
        worker = self.idle.pop()
        self.busy.append(worker)
        self.most_busy = max(self.most_busy, len(self.busy))
        return worker

    def give_back(self, worker: ScriptedWorker) -> None:
        self.busy.remove(worker)
        self.idle.append(worker)

    def replace(self, worker: ScriptedWorker) -> None:
        self.busy.remove(worker)
        fresh = ScriptedWorker(worker.slot, self._script)
        self.workers.append(fresh)
        self.idle.append(fresh)

    def ready(self, timeout_s: float) -> list[ScriptedWorker]:
        speaking = [worker for worker in self.busy if worker.has_something_to_say]
        if not speaking:
            self._on_wait(timeout_s)
        return speaking

    def close(self) -> None:
        self.busy.clear()
