"""A training in progress: what it has reported so far, and how it ended."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from autotune.core.files import now_iso
from autotune.core.metric import Metric
from autotune.core.records import EvalPoint, TrialResult, TrialStatus
from autotune.engine.assignment import Assignment
from autotune.engine.probes import RunningProbe
from autotune.engine.worker import Job, Worker
from autotune.store.run_directory import RunDirectory


class Ending(NamedTuple):
    """How a training ends: its status, and the cause in a sentence for a person, "" if it simply finished."""

    status: TrialStatus
    cause: str = ""


@dataclass
class Running:
    """A training in progress on a worker.

    Args:
        assignment: What it trains.
        worker: Where.
        started_at: ISO 8601.
        start: Start by the monotonic clock.
        heard: Last sign of progress by the monotonic clock.
        points: Evaluations so far, of the present seed.
        ending: How it ends, once it was told to stop.
        probe: What it measures before the training itself, while it does so.
        curves: Evaluations of the seeds that were trained to their end.
        end_tokens: Tokens at which it was asked to end before its budget; None if it was not.
        is_preparing: Whether the last that was heard of it is that its data is being prepared.
        waited_s: Seconds between the last two signs of progress.
        is_unwanted: Whether a person has stopped it.
        energy_j: What the counter of its GPU said at its start, in joules; None without one.
    """

    assignment: Assignment
    worker: Worker
    started_at: str = field(default_factory=now_iso)
    start: float = field(default_factory=lambda: time.monotonic())
    heard: float = field(default_factory=lambda: time.monotonic())
    points: list[EvalPoint] = field(default_factory=list)
    ending: Ending | None = None
    probe: RunningProbe | None = None
    curves: list[list[EvalPoint]] = field(default_factory=list)
    end_tokens: int | None = None
    is_preparing: bool = False
    waited_s: float = 0.0
    is_unwanted: bool = False
    energy_j: float | None = None

    def __post_init__(self) -> None:
        self.energy_j = self.worker.slot.energy_j()

    def natural_ending(self, metric: Metric) -> Ending:
        """Return how it ends when the trainer returns without having been told to stop.

        Args:
            metric: What the trainer reports.
        """
        if not self.points:
            return Ending(TrialStatus.CRASHED, "the trainer returned without reporting an evaluation")

        last_tokens = self.points[-1].tokens_seen
        budget_tokens = self.assignment.budget_tokens
        if last_tokens < (self.end_tokens or budget_tokens):
            whole = metric.budget(budget_tokens)
            cause = f"the trainer returned at {last_tokens:,} of {whole} without being asked to stop"
            return Ending(TrialStatus.CRASHED, cause)
        return Ending(TrialStatus.FINISHED)

    @property
    def trained_tokens(self) -> int:
        """Tokens of all of its seeds that the result stands for."""
        if self.curves:
            return sum(curve[-1].tokens_seen for curve in self.curves)
        return self.points[-1].tokens_seen if self.points else 0

    def prepare(self) -> None:
        """Begin to count from now on: what was done so far only prepared the training, and is done once."""
        self.is_preparing = True
        self.start = time.monotonic()
        if self.probe is not None:
            self.probe.prepare()

    def submit(self) -> None:
        """Hand the training, or the probe that comes first, to the worker."""
        job = self.assignment
        self.probe = None
        if job.probe_points is not None:
            self.probe = RunningProbe(job.budget_tokens, job.probe_points)
        self.worker.submit(Job(job.config, job.budget_tokens, job.folder / "log.txt"))

    def result(self, ending: Ending, run: RunDirectory, facts: Mapping[str, Any], worker_died: bool) -> TrialResult:
        """Return what is stored of it.

        Args:
            ending: How it ended.
            run: The run directory, to which the path of its log is relative.
            facts: What the trainer returned.
            worker_died: Whether its process died under it.
        """
        # Of several seeds the result is the mean of those that were trained to their end.
        points = _mean_curve(self.curves) if self.curves else tuple(self.points)
        log = self.assignment.folder / "log.txt"

        return TrialResult(
            status=ending.status,
            cause=ending.cause,
            points=points,
            facts=dict(facts),
            started_at=self.started_at,
            seconds=time.monotonic() - self.start,
            config=self.assignment.config,
            log=str(log.relative_to(run.root)),
            host=socket.gethostname(),
            device=self.worker.slot.name,
            worker_died=worker_died,
            energy_j=self._used_j(),
        )

    def _used_j(self) -> float | None:
        """Return the joules that its GPU has used since it began; None if its counter is silent, or began anew."""
        now = self.worker.slot.energy_j()
        if now is None or self.energy_j is None or now < self.energy_j:
            return None
        return now - self.energy_j


def _mean_curve(curves: Sequence[Sequence[EvalPoint]]) -> tuple[EvalPoint, ...]:
    """Return the mean over seeds of each evaluation that all have at the same tokens, and of their last ones.

    Args:
        curves: Evaluations, a list for each seed.
    """
    by_tokens = [{point.tokens_seen: point for point in curve[:-1]} for curve in curves]
    common = [tokens for tokens in by_tokens[0] if all(tokens in points for points in by_tokens)]
    same = [[points[tokens] for points in by_tokens] for tokens in common]

    means = []
    for points in (*same, [curve[-1] for curve in curves]):
        shared = set.intersection(*(set(point.metrics) for point in points))
        metrics = {name: statistics.fmean(point.metrics[name] for point in points) for name in sorted(shared)}
        loss = statistics.fmean(point.val_loss for point in points)
        means.append(EvalPoint(points[0].tokens_seen, loss, metrics))
    return tuple(means)
