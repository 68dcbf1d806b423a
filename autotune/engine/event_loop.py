"""The event loop: draw a trial -> worker -> report / prune -> tell, on every device slot at once."""

from __future__ import annotations

import math
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune.core.errors import UserError
from autotune.core.files import append_line, now_iso, require_space
from autotune.core.records import EvalPoint, TrialResult, TrialStatus
from autotune.engine.deadline import REPORT_S, Deadline, Pace
from autotune.engine.probes import Probing
from autotune.engine.queue import Assignment, Queue
from autotune.engine.worker import Done, Failed, Job, Message, Progress, Slot, Worker, ready
from autotune.search.pruning import should_continue
from autotune.store.database import back_up
from autotune.store.run_directory import RunDirectory
from autotune.study.spec import LimitsSpec

if TYPE_CHECKING:
    from autotune.progress.observer import Listener

# A loss of twice a trial's own best is taken as divergence: noise between evaluations is a few percent, and
# a median pruner never stops such a trial, since it looks at the best value so far. Losses below zero have no factor.
DIVERGENCE_FACTOR = 2.0
# How often the loop looks up when nothing happens, in seconds.
TICK_S = 0.5
# The first evaluation may have to wait for a corpus to be fetched and for kernels to be compiled.
FIRST_EVALUATION_ALLOWANCE = 3
# A damaged database costs at most this much of the night, in seconds.
BACK_UP_EVERY_S = 600


@dataclass
class Running:
    """A training in progress on a worker.

    Args:
        assignment: What it trains.
        worker: Where.
        started_at: ISO 8601.
        start: Start by the monotonic clock.
        heard: Last sign of progress by the monotonic clock.
        points: Evaluations so far.
        ending: Status and cause once it was told to stop.
        probing: What it measures before the training itself, while it does so.
        curves: Evaluations of the seeds that were trained before this one.
        end_tokens: Tokens at which it was asked to end before its budget; None if it was not.
    """

    assignment: Assignment
    worker: Worker
    started_at: str = field(default_factory=now_iso)
    start: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    points: list[EvalPoint] = field(default_factory=list)
    ending: tuple[TrialStatus, str] | None = None
    probing: Probing | None = None
    curves: list[list[EvalPoint]] = field(default_factory=list)
    end_tokens: int | None = None

    @property
    def best_loss(self) -> float:
        """Lowest loss so far; infinite before the first."""
        return min((point.val_loss for point in self.points), default=math.inf)


class StopRequest:
    """How urgently the user wants the run to end: 0 not at all, 1 after the step, 2 now."""

    def __init__(self) -> None:
        self.level = 0

    def raise_level(self, *_: object) -> None:
        """Counts one more request; fits a signal handler."""
        self.level = min(2, self.level + 1)


class EventLoop:
    """Runs queues of trials on the slots' resident workers, which stay warm from queue to queue.

    Args:
        slots: Devices to use.
        trainer: The trainer's name.
        run: The run directory.
        limits: When something is given up.
        stop: Raised by signals.
        deadline: When everything must be done.
        listener: Told what happens.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        trainer: str,
        run: RunDirectory,
        limits: LimitsSpec,
        stop: StopRequest,
        deadline: Deadline,
        listener: Listener,
    ) -> None:
        self.run_directory = run
        self.limits = limits
        self.stop = stop
        self.deadline = deadline
        self.listener = listener
        self.pace = Pace()
        self._trainer = trainer
        self._idle = [Worker(slot, trainer) for slot in slots]
        self._running: dict[Worker, Running] = {}
        self._failed_in_a_row: set[tuple[str, int]] = set()
        self._backed_up = time.monotonic()

    def run(self, queue: Queue, may_start: Callable[[float], bool], *, awaits_peers: bool = True) -> None:
        """Draws and trains until the queue is empty, time is up or a stop was asked for.

        Args:
            queue: Where trials come from.
            may_start: Takes the expected seconds of one training; whether there is time for it.
            awaits_peers: Whether to wait for what other processes train of this queue.

        Raises:
            UserError: When trials crash one after the other, or the disk is full.
        """
        queue.recover()
        swept = time.monotonic()
        while True:
            self._fill(queue, may_start)
            if not self._running and not (awaits_peers and self._worth_waiting(queue, may_start)):
                return
            self._listen(queue)
            if time.monotonic() - swept > self.limits.heartbeat_s:
                swept = time.monotonic()
                queue.beat([running.assignment.trial for running in self._running.values()])
                queue.recover()
            if time.monotonic() - self._backed_up > BACK_UP_EVERY_S:
                self._backed_up = time.monotonic()
                back_up(self.run_directory)
            self.listener.tick()

    def _fill(self, queue: Queue, may_start: Callable[[float], bool]) -> None:
        while self._idle and not self.stop.level and may_start(self._expected_s(queue)):
            require_space(self.run_directory.root, self.limits.min_free_bytes)
            assignment = queue.take()
            if assignment is None:
                return
            worker = self._idle.pop()
            self._running[worker] = Running(assignment, worker)
            self._submit(self._running[worker])
            self.listener.started(queue, assignment, worker.slot.name)

    def _submit(self, running: Running) -> None:
        job = running.assignment
        running.probing = None if job.probe_points is None else Probing(job.budget_tokens, job.probe_points)
        running.worker.submit(Job(job.config, job.budget_tokens, job.folder / "log.txt"))

    def _expected_s(self, queue: Queue) -> float:
        return queue.seeds * queue.slowness * self.pace.seconds(queue.budget_tokens)

    def _worth_waiting(self, queue: Queue, may_start: Callable[[float], bool]) -> bool:
        """Whether a peer still trains something that may come back to this queue."""
        patient = not self.stop.level and may_start(self._expected_s(queue))
        if not patient or queue.is_settled():
            return False
        time.sleep(TICK_S)
        return True

    def _listen(self, queue: Queue) -> None:
        for worker in ready(list(self._running), TICK_S):
            self._handle(queue, self._running[worker], worker.receive())
        for running in list(self._running.values()):
            if self.stop.level >= 2:
                self._replace(running.worker)
                self._end(queue, running, TrialStatus.INTERRUPTED, "stopped at once by the user")
            elif self.deadline.seconds_left < REPORT_S / 2:
                self._replace(running.worker)
                self._end(queue, running, TrialStatus.INTERRUPTED, "stopped: the time was up")
            elif time.monotonic() - running.heard > self._patience_s(running):
                silent = time.monotonic() - running.heard
                self._replace(running.worker)
                hung = TrialStatus.CRASHED, f"no progress for {_duration(silent)}; stopped"
                self._end(queue, running, *(running.ending or hung))

    def _patience_s(self, running: Running) -> float:
        return self.limits.hang_s * (1 if running.points else FIRST_EVALUATION_ALLOWANCE)

    def _handle(self, queue: Queue, running: Running, message: Message | None) -> None:
        running.heard = time.monotonic()
        if running.probing is not None and isinstance(message, Progress | Done):
            self._probe(queue, running, running.probing, message)
        elif isinstance(message, Progress):
            running.worker.answer(self._go_on(queue, running, message))
        elif isinstance(message, Done):
            ending: tuple[TrialStatus, str] | None = running.ending or _natural_end(running)
            if queue.seeds > 1 and ending == (TrialStatus.FINISHED, ""):
                ending = self._after_seed(queue, running)
            if ending is not None:
                self._idle.append(running.worker)
                self._end(queue, running, *ending, message)
        elif isinstance(message, Failed):
            self._replace(running.worker)
            status = TrialStatus.OUT_OF_MEMORY if message.out_of_memory else TrialStatus.CRASHED
            # One that was told to stop has its ending, however clumsily it stops.
            self._end(queue, running, *(running.ending or (status, message.message)))
        else:
            death = TrialStatus.INTERRUPTED, running.worker.cause_of_death()
            self._replace(running.worker)
            self._end(queue, running, *(running.ending or death), worker_died=running.ending is None)

    def _probe(self, queue: Queue, running: Running, probing: Probing, message: Progress | Done) -> None:
        """Takes the speed on which a trial's budget depends, whatever the losses; then the training itself begins."""
        if isinstance(message, Progress):
            running.ending = self._must_stop("in its probe")
            running.worker.answer(probing.take(message.point) and running.ending is None)
        elif running.ending is None and probing:
            running.assignment = queue.measured(running.assignment, probing.result(message.facts).speed)
            self._submit(running)
        else:
            self._idle.append(running.worker)
            self._end(queue, running, *(running.ending or _natural_end(running)), message)

    def _after_seed(self, queue: Queue, running: Running) -> tuple[TrialStatus, str] | None:
        """Begins a trial's next seed and returns None, or returns how the trial ends."""
        assignment, loss = running.assignment, running.points[-1].val_loss
        running.curves.append(running.points)
        count = len(running.curves)
        at = f"after {count} of {queue.seeds} seeds"
        if not queue.report_seed(assignment, count, loss):
            return TrialStatus.INTERRUPTED, f"taken over by a peer {at}, which had no sign of life from here"
        if not assignment.seeds_left:
            return TrialStatus.FINISHED, ""
        if (stopped := self._must_stop(at)) is not None:
            return stopped
        if not _pruner_lets_continue(queue, assignment, assignment.budget_tokens):
            return TrialStatus.PRUNED, f"behind the best trial {at} (loss {loss:.4f})"
        running.assignment, running.points = queue.with_next_seed(assignment), []
        self._submit(running)
        return None

    def _go_on(self, queue: Queue, running: Running, message: Progress) -> bool | int:
        point = message.point
        append_line(running.assignment.folder / "metrics.jsonl", point.to_json())
        running.ending = self._verdict(queue, running, point)
        running.points.append(point)
        self.listener.progress(queue, running.assignment, point)
        if running.ending is not None:
            return False
        if queue.watch is None:
            return True
        end = running.end_tokens = queue.watch(running.assignment, running.points)
        return end if end is not None and point.tokens_seen < end else True

    def _verdict(self, queue: Queue, running: Running, point: EvalPoint) -> tuple[TrialStatus, str] | None:
        """Returns how a trial must end after an evaluation, or None if it goes on."""
        at = f"at {point.tokens_seen:,} tokens"
        if not math.isfinite(point.val_loss):
            return TrialStatus.DIVERGED, f"diverged {at}: the loss is {point.val_loss} (learning rate too high?)"
        if queue.seeds == 1 and not queue.report(running.assignment, point):
            return TrialStatus.INTERRUPTED, f"taken over by a peer {at}, which had no sign of life from here"
        if 0 < DIVERGENCE_FACTOR * running.best_loss < point.val_loss:
            return TrialStatus.DIVERGED, f"diverged {at}: loss {point.val_loss:.3g} after {running.best_loss:.3g}"
        if point.tokens_seen >= running.assignment.budget_tokens or point.tokens_seen == running.end_tokens:
            return None
        if (ending := self._must_stop(at)) is not None:
            return ending
        if queue.seeds == 1 and not _pruner_lets_continue(queue, running.assignment, point.tokens_seen):
            return TrialStatus.PRUNED, f"behind the other trials {at} (loss {point.val_loss:.4f})"
        return None

    def _must_stop(self, at: str) -> tuple[TrialStatus, str] | None:
        if self.stop.level:
            return TrialStatus.INTERRUPTED, f"stopped {at} by the user"
        if self.deadline.seconds_left < REPORT_S:
            return TrialStatus.INTERRUPTED, f"stopped {at}: the time was up"
        return None

    def _end(
        self,
        queue: Queue,
        running: Running,
        status: TrialStatus,
        cause: str,
        done: Done | None = None,
        worker_died: bool = False,
    ) -> None:
        self._running.pop(running.worker, None)
        assignment = running.assignment
        # Of several seeds the result is the mean of those that were trained to their end.
        points = mean_curve(running.curves) if running.curves else tuple(running.points)
        result = TrialResult(
            status=status,
            cause=cause,
            points=points,
            facts=dict(done.facts) if done else {},
            started_at=running.started_at,
            seconds=time.monotonic() - running.start,
            config=assignment.config,
            log=str((assignment.folder / "log.txt").relative_to(self.run_directory.root)),
            host=socket.gethostname(),
            device=running.worker.slot.name,
            worker_died=worker_died,
        )
        # A hang's duration says nothing about the next training, and must not look like a lack of time.
        if points and status.teaches:
            # In tokens of the baseline, where a trial's own budget takes the seconds of the baseline's.
            trained = sum(curve[-1].tokens_seen for curve in (running.curves or [list(points)]))
            share = trained / assignment.budget_tokens
            self.pace.learn(round(share * queue.budget_tokens), result.seconds)
        queue.tell(assignment.trial, result, assignment.folder)
        self.listener.ended(queue, assignment, result)
        self._count_crashes((queue.kind, assignment.first), result)

    def _count_crashes(self, settings: tuple[str, int], result: TrialResult) -> None:
        """Gives the study up when different settings fail in a row; one bad setting may fail as often as it is tried.

        Raises:
            UserError: When too many have failed.
        """
        if result.status is not TrialStatus.CRASHED and not result.worker_died:
            self._failed_in_a_row.clear()
            return
        self._failed_in_a_row.add(settings)
        if len(self._failed_in_a_row) >= self.limits.crashes:
            log = self.run_directory.root / result.log
            raise UserError(
                f"{len(self._failed_in_a_row)} settings in a row failed; the last: {result.cause}; see {log}", 1
            )

    def _replace(self, worker: Worker) -> None:
        """Kills a worker and starts another on its slot: after a fault its device state is not to be trusted."""
        worker.kill()
        self._idle.append(Worker(worker.slot, self._trainer))

    def close(self) -> None:
        """Ends every worker; trials that still run are left for the next run to take up."""
        for worker in self._running:
            worker.kill()
        for worker in self._idle:
            worker.close()


def mean_curve(curves: Sequence[Sequence[EvalPoint]]) -> tuple[EvalPoint, ...]:
    """Returns the mean over seeds of each evaluation, of the metrics that all of them have.

    Args:
        curves: Evaluations at the same tokens, a list for each seed.
    """
    found = []
    for points in zip(*curves, strict=True):
        shared = set.intersection(*(set(point.metrics) for point in points))
        metrics = {name: statistics.fmean(point.metrics[name] for point in points) for name in sorted(shared)}
        found.append(EvalPoint(points[0].tokens_seen, statistics.fmean(point.val_loss for point in points), metrics))
    return tuple(found)


def _natural_end(running: Running) -> tuple[TrialStatus, str]:
    if not running.points:
        return TrialStatus.CRASHED, "the trainer returned without a single report"
    last, budget = running.points[-1].tokens_seen, running.assignment.budget_tokens
    if last < (running.end_tokens or budget):
        return TrialStatus.CRASHED, f"the trainer returned at {last:,} of {budget:,} tokens without being asked"
    return TrialStatus.FINISHED, ""


def _pruner_lets_continue(queue: Queue, assignment: Assignment, tokens: int) -> bool:
    spec = queue.study.spec
    return should_continue(
        assignment.trial,
        tokens,
        pruner_name=spec.pruner.name,
        audit_frac=spec.pruner.audit_frac,
        seed=spec.seed,
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
