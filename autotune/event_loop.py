"""The event loop: draw a trial -> worker -> report / prune -> tell, on every device slot at once."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune.deadline import Pace
from autotune.queues import Assignment, Queue
from autotune.records import EvalPoint, TrialResult, TrialStatus, UserError
from autotune.run_directory import RunDirectory, append_line, now_iso, require_space
from autotune.spec import LimitsSpec
from autotune.worker import Done, Failed, Job, Message, Progress, Slot, Worker, ready

if TYPE_CHECKING:
    from autotune.listener import Listener

# A loss of twice a trial's own best is taken as divergence: noise between evaluations is a few percent, and
# a median pruner never stops such a trial, since it looks at the best value so far.
DIVERGENCE_FACTOR = 2.0
# How often the loop looks up when nothing happens, in seconds.
TICK_S = 0.5
# The first evaluation may have to wait for a corpus to be fetched and for kernels to be compiled.
FIRST_EVALUATION_ALLOWANCE = 3


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
    """

    assignment: Assignment
    worker: Worker
    started_at: str = field(default_factory=now_iso)
    start: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    points: list[EvalPoint] = field(default_factory=list)
    ending: tuple[TrialStatus, str] | None = None

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
        listener: Told what happens.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        trainer: str,
        run: RunDirectory,
        limits: LimitsSpec,
        stop: StopRequest,
        listener: Listener,
    ) -> None:
        self.run_directory = run
        self.limits = limits
        self.stop = stop
        self.listener = listener
        self.pace = Pace()
        self._trainer = trainer
        self._idle = [Worker(slot, trainer) for slot in slots]
        self._running: dict[Worker, Running] = {}
        self._crashes_in_a_row = 0

    def run(self, queue: Queue, may_start: Callable[[float], bool]) -> None:
        """Draws and trains until the queue is empty, time is up or a stop was asked for.

        Args:
            queue: Where trials come from.
            may_start: Takes the expected seconds of one training; whether there is time for it.

        Raises:
            UserError: When trials crash one after the other, or the disk is full.
        """
        queue.recover()
        swept = time.monotonic()
        while True:
            self._fill(queue, may_start)
            if not self._running and not self._worth_waiting(queue, may_start):
                return
            self._listen(queue)
            if time.monotonic() - swept > self.limits.heartbeat_s:
                swept = time.monotonic()
                queue.beat([running.assignment.trial for running in self._running.values()])
                queue.recover()
            self.listener.tick()

    def _fill(self, queue: Queue, may_start: Callable[[float], bool]) -> None:
        while self._idle and not self.stop.level and may_start(self.pace.seconds(queue.budget_tokens)):
            require_space(self.run_directory.root, self.limits.min_free_bytes)
            assignment = queue.take()
            if assignment is None:
                return
            worker = self._idle.pop()
            self._running[worker] = Running(assignment, worker)
            worker.submit(Job(assignment.config, assignment.budget_tokens, assignment.folder / "log.txt"))
            self.listener.started(queue, assignment, worker.slot.name)

    def _worth_waiting(self, queue: Queue, may_start: Callable[[float], bool]) -> bool:
        """Whether a peer still trains something that may come back to this queue."""
        patient = not self.stop.level and may_start(self.pace.seconds(queue.budget_tokens))
        if not patient or not queue.running_elsewhere():
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
            elif time.monotonic() - running.heard > self._patience_s(running):
                silent = time.monotonic() - running.heard
                self._replace(running.worker)
                self._end(queue, running, TrialStatus.CRASHED, f"no progress for {_duration(silent)}; stopped")

    def _patience_s(self, running: Running) -> float:
        return self.limits.hang_s * (1 if running.points else FIRST_EVALUATION_ALLOWANCE)

    def _handle(self, queue: Queue, running: Running, message: Message | None) -> None:
        running.heard = time.monotonic()
        if isinstance(message, Progress):
            running.worker.answer(self._go_on(queue, running, message))
        elif isinstance(message, Done):
            status, cause = running.ending or _natural_end(running)
            self._idle.append(running.worker)
            self._end(queue, running, status, cause, message)
        elif isinstance(message, Failed):
            self._replace(running.worker)
            status = TrialStatus.OUT_OF_MEMORY if message.out_of_memory else TrialStatus.CRASHED
            self._end(queue, running, status, message.message)
        else:
            cause = running.worker.cause_of_death()
            self._replace(running.worker)
            self._end(queue, running, TrialStatus.INTERRUPTED, cause)

    def _go_on(self, queue: Queue, running: Running, message: Progress) -> bool:
        point = EvalPoint.from_report(message.report)
        append_line(running.assignment.folder / "metrics.jsonl", point.to_json())
        running.ending = self._verdict(running, point)
        running.points.append(point)
        self.listener.progress(queue, running.assignment, point)
        return running.ending is None

    def _verdict(self, running: Running, point: EvalPoint) -> tuple[TrialStatus, str] | None:
        """Returns how a trial must end after an evaluation, or None if it goes on."""
        trial = running.assignment.trial
        at = f"at {point.tokens_seen:,} tokens"
        if not math.isfinite(point.val_loss):
            return TrialStatus.DIVERGED, f"diverged {at}: the loss is {point.val_loss} (learning rate too high?)"
        trial.report(point.val_loss, step=point.tokens_seen)
        if point.val_loss > DIVERGENCE_FACTOR * running.best_loss:
            return TrialStatus.DIVERGED, f"diverged {at}: loss {point.val_loss:.3g} after {running.best_loss:.3g}"
        if point.tokens_seen >= running.assignment.budget_tokens:
            return None
        if self.stop.level:
            return TrialStatus.INTERRUPTED, f"stopped {at} by the user"
        # The baseline is what everything is compared with, so it always runs to its end.
        if trial.user_attrs.get("role") != "baseline" and trial.should_prune():
            return TrialStatus.PRUNED, f"behind the other trials {at} (loss {point.val_loss:.4f})"
        return None

    def _end(self, queue: Queue, running: Running, status: TrialStatus, cause: str, done: Done | None = None) -> None:
        self._running.pop(running.worker, None)
        assignment = running.assignment
        result = TrialResult(
            status=status,
            cause=cause,
            points=tuple(running.points),
            facts=dict(done.facts) if done else {},
            started_at=running.started_at,
            seconds=time.monotonic() - running.start,
            config=assignment.config,
            log=str((assignment.folder / "log.txt").relative_to(self.run_directory.root)),
            host=socket.gethostname(),
            device=running.worker.slot.name,
        )
        if running.points:
            self.pace.learn(running.points[-1].tokens_seen, result.seconds)
        queue.tell(assignment.trial, result, assignment.folder)
        self.listener.ended(queue, assignment, result)
        self._count_crashes(result)

    def _count_crashes(self, result: TrialResult) -> None:
        crashed = result.status is TrialStatus.CRASHED or (
            result.status is TrialStatus.INTERRUPTED and not self.stop.level
        )
        self._crashes_in_a_row = self._crashes_in_a_row + 1 if crashed else 0
        if self._crashes_in_a_row >= self.limits.crashes:
            log = self.run_directory.root / result.log
            raise UserError(f"{self._crashes_in_a_row} trials in a row failed; the last: {result.cause}; see {log}", 1)

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


def _natural_end(running: Running) -> tuple[TrialStatus, str]:
    if not running.points:
        return TrialStatus.CRASHED, "the trainer returned without a single report"
    last, budget = running.points[-1].tokens_seen, running.assignment.budget_tokens
    if last < budget:
        return TrialStatus.CRASHED, f"the trainer returned at {last:,} of {budget:,} tokens without being asked"
    return TrialStatus.FINISHED, ""


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
