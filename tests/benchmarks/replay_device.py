"""One simulated device with the account of its time, for tools that are not asked by the engine's own replay.

A training pays its set-up once, then the time of its tokens and of each evaluation; one that was put aside and goes on
later pays nothing for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from replay_task import Task

from autotune.core.records import TrialStatus
from autotune.replay.simulation import Search
from autotune.replay.table import Row, Table

ETA = 3
"""Reduction factor of all methods with rungs; each tool's own default or advice, but for Ray's 4."""
FIRST_RUNG_FRAC = 1 / ETA**2
NOTHING = Search((), ())


class Device:
    """One simulated device and the account of its time.

    Args:
        task: Gives the rows and the device time after which nothing begins.
    """

    def __init__(self, task: Task) -> None:
        self.table = task.table
        self.now_s = 0.0
        self._budget_s = task.budget_s
        self._rows = task.rows
        self._finished: list[tuple[float, float]] = []

    @property
    def has_time(self) -> bool:
        """Whether something may still begin."""
        return self.now_s < self._budget_s

    def begin(self, params: Mapping[str, Any]) -> Training | None:
        """Take the nearest row left; None when there is none or the time is over."""
        row = self._rows.take(params) if self.has_time else None
        return None if row is None else Training(self, row)

    def finish(self, loss: float) -> None:
        """Note that a training has now come to its end."""
        self._finished.append((self.now_s, loss))

    def searched(self) -> Search:
        """Return the trainings that came to their end, in order."""
        return Search(*(tuple(column) for column in zip(*self._finished, strict=True))) if self._finished else NOTHING


class Training:
    """A row on its way.

    Args:
        device: Whose time it takes.
        row: What it measures.
    """

    def __init__(self, device: Device, row: Row) -> None:
        self.row = row
        self._device = device
        self._evaluations = 0
        whole = len(device.table.tokens)
        broken = next((index for index, loss in enumerate(row.losses, 1) if not math.isfinite(loss)), 0)
        self._last = broken or max(1, len(row.losses))
        self._finishes = row.status is TrialStatus.FINISHED and not broken and self._last == whole

    def to(self, evaluations: int) -> float | None:
        """Train on to an evaluation and return the loss there; None when the training has broken off by then."""
        goal = min(evaluations, self._last)
        if goal > self._evaluations:
            self._device.now_s += self._seconds(goal) - self._seconds(self._evaluations)
            self._evaluations = goal
            if goal == self._last and self._finishes:
                self._device.finish(self.row.losses[-1])
        if evaluations < self._last or self._finishes:
            return self.row.losses[goal - 1]
        return None

    def _seconds(self, evaluations: int) -> float:
        tokens = self._device.table.tokens[evaluations - 1]
        return self.row.seconds(tokens, evaluations) if evaluations else 0.0


def first_rung(table: Table) -> int:
    """Return the evaluation nearest to a ninth of a whole training."""
    wanted = table.tokens[-1] * FIRST_RUNG_FRAC
    return min(range(1, len(table.tokens) + 1), key=lambda evaluation: abs(table.tokens[evaluation - 1] - wanted))
