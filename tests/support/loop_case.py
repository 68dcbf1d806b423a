"""A queue on a real storage and the event loop, with workers that play a script instead of training in a process."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from scripted_workers import Script, ScriptedPool, training
from study_case import make_queue, make_study

from autotune.core.records import TrialRecord, TrialStatus
from autotune.engine.deadline import Deadline, StopRequest
from autotune.engine.event_loop import EventLoop, Watch
from autotune.engine.failure_streak import FailureStreak
from autotune.engine.queue import Queue
from autotune.engine.worker import Message
from autotune.progress.observer import RunObserver

SOUND = training(4.0, 3.0, 2.5, 2.0)
"""A training with nothing wrong in it."""


class Left(Deadline):
    """A deadline that is as many seconds away as a test says."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @property
    def seconds_left(self) -> float:
        return self.seconds


class Case:
    """A queue, a loop and what it says, for one script."""

    def __init__(self, folder: Path, script: Script, *changes: str, slots: int = 1, **plan: Any) -> None:
        self.study = make_study(folder, *changes)
        self.queue: Queue = make_queue(folder, self.study, **plan)
        self.said: list[str] = []
        self.stop = StopRequest()
        self.deadline = Left(math.inf)
        self.pool = ScriptedPool(script, slots)
        self.loop = EventLoop(
            pool=self.pool,  # type: ignore[arg-type]
            run_directory=self.queue.run,
            limits=self.study.spec.limits,
            stop=self.stop,
            deadline=self.deadline,
            observer=RunObserver(self.queue.run, self.said.append),
            failures=FailureStreak(self.study.spec.limits.crashes),
        )

    def run(self, watch: Watch | None = None, may_start: Callable[[float], bool] = lambda seconds: True) -> None:
        self.loop.run(self.queue, may_start, watch=watch)

    @property
    def records(self) -> list[TrialRecord]:
        return self.queue.records()

    @property
    def endings(self) -> list[tuple[TrialStatus, str]]:
        return [(record.status, record.result.cause) for record in self.records if record.result is not None]


def saying(*messages: Message | None) -> Generator[Message | None, Any, None]:
    return (message for message in messages)
