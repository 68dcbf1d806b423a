"""An event loop that trains nothing: each training ends at once, with a loss that the test gives it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from autotune.core.records import EvalPoint, TrialResult, TrialStatus
from autotune.engine.deadline import Deadline, Pace, StopRequest
from autotune.engine.queue import Queue
from autotune.store.run_directory import RunDirectory

Loss = Callable[[Mapping[str, Any], int, int], float | TrialStatus]
"""Takes settings, seed and tokens, and returns the final loss, or how it ends otherwise; one that is not finite
diverges."""


class FixedDeadline(Deadline):
    """A deadline that stays as far off as it is.

    Args:
        seconds: Seconds until then.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        super().__init__()
        self._seconds = seconds

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self._seconds


class Notes:
    """An observer that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, kind: str, message: str) -> None:
        """Keep a message."""
        self.said.append(message)


class FakeLoop:
    """Has what the finals and the brackets need of an event loop. A training of 1,000 tokens takes a second.

    Args:
        run: The study's run directory.
        loss: What a training comes to.
        seconds_left: Until everything must be done; it does not pass.
        most: Trainings after which it finds no more time.
    """

    def __init__(self, run: RunDirectory, loss: Loss, seconds_left: float = math.inf, most: int = 1_000) -> None:
        self.run_directory = run
        self.loss = loss
        self.most = most
        self.stop = StopRequest()
        self.deadline = FixedDeadline(seconds_left)
        self.pace = Pace()
        self.pace.expect(1_000, 1.0)
        self.observer = Notes()
        self.trained: list[tuple[dict[str, Any], int]] = []

    def run(self, queue: Queue, may_start: Callable[[float], bool], *, awaits_peers: bool = True) -> None:
        """Train what the queue has, as long as there is time."""
        while not self.stop.level and len(self.trained) < self.most and may_start(queue.plan.budget_tokens / 1_000):
            assignment = queue.take()
            if assignment is None:
                return
            seed = int(assignment.config["seed"])
            self.trained.append((dict(assignment.params), seed))
            loss = self.loss(assignment.params, seed, assignment.budget_tokens)
            if isinstance(loss, TrialStatus):
                queue.tell(assignment.trial, TrialResult(loss, "planned"), assignment.folder)
                continue

            finite = math.isfinite(loss)
            status = TrialStatus.FINISHED if finite else TrialStatus.DIVERGED
            points = (EvalPoint(assignment.budget_tokens, loss),)
            result = TrialResult(status, "" if finite else "planned", points, seconds=assignment.budget_tokens / 1_000)
            queue.tell(assignment.trial, result, assignment.folder)
