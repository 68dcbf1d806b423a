"""The event loop: draw a trial -> worker -> report / prune -> tell, on every device slot at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune.core.errors import UserError
from autotune.core.files import append_line, require_space
from autotune.core.own_words import told
from autotune.core.records import EvalPoint, TrainingKind, TrialStatus
from autotune.core.text import duration
from autotune.engine.assignment import Assignment
from autotune.engine.deadline import MARGIN, Deadline, Interval, Pace, StopRequest
from autotune.engine.end_rules import EndRules, as_unwanted, ending_of, not_finite, taken_over
from autotune.engine.failure_streak import FailureStreak
from autotune.engine.probes import RunningProbe
from autotune.engine.queue import Queue
from autotune.engine.running import Ending, Running
from autotune.engine.session_end import SessionEnd
from autotune.engine.steering import Steering
from autotune.engine.worker import Done, Failed, Message, Preparing, Progress, Worker
from autotune.engine.worker_pool import WorkerPool
from autotune.progress.observer import RunObserver, TrainingInfo
from autotune.store.backup import Backups
from autotune.store.run_directory import RunDirectory
from autotune.study.spec import LimitsSpec

if TYPE_CHECKING:
    import optuna

TICK_S = 0.5
"""Longest wait for a worker's message, in seconds; then the loop looks at everything else."""

Watch = Callable[[Assignment, Sequence[EvalPoint]], int | None]
"""Takes the evaluations of a training so far, and returns the tokens at which it ends, None for its budget."""


@dataclass(frozen=True)
class EventLoop:
    """Works through queues of trials, and holds what lasts from queue to queue.

    Args:
        pool: The workers.
        run_directory: The run directory.
        limits: When something is given up.
        stop: Raised by signals.
        deadline: When everything must be done.
        observer: Told what happens.
        failures: Counts what fails in a row.
        pace: Learns how long trainings take.
        backups: Backs the database up now and then.
        session: When the session ends, which may be before the deadline.
        steering: What a person asks meanwhile.
    """

    pool: WorkerPool
    run_directory: RunDirectory
    limits: LimitsSpec
    stop: StopRequest
    deadline: Deadline
    observer: RunObserver
    failures: FailureStreak
    pace: Pace = field(default_factory=Pace)
    backups: Backups = field(default_factory=Backups)
    session: SessionEnd = field(default_factory=SessionEnd)
    steering: Steering = field(default_factory=Steering)

    def run(
        self,
        queue: Queue,
        may_start: Callable[[float], bool],
        *,
        awaits_peers: bool = True,
        watch: Watch | None = None,
        before: Callable[[Assignment], None] | None = None,
    ) -> None:
        """Draw and train until the queue is empty, time is up or a stop was asked for.

        Args:
            queue: Where trials come from.
            may_start: Takes the expected seconds of one training; whether there is time for it.
            awaits_peers: Whether to wait for what other processes train of this queue.
            watch: Decides at each evaluation where a training ends; None if all train for their budget.
            before: Called with each training before it begins.

        Raises:
            UserError: When trials crash one after the other, or the disk is full.
        """
        work = QueueWork(self, queue, may_start, watch, before)
        queue.recover()
        sweeps = Interval(self.limits.heartbeat_s)
        was_begun = self.run_directory.spec.exists()

        while True:
            if was_begun:
                self.run_directory.require_unmoved()
            self.steering.tick()
            work.fill()
            if not work.running and work.is_held_up:
                self.end_session(work.needed_s)
            if not work.running and not (awaits_peers and work.is_worth_waiting()):
                return
            work.listen()

            if sweeps.has_passed():
                queue.beat(work.trials)
                queue.recover([trial.number for trial in work.trials])
            self.backups.tick(self.run_directory)
            self.session.tick()
            self.heed_session()
            self.observer.tick(self.pool.busy_pids)

    def heed_session(self, next_s: float = 0.0) -> None:
        """Park if the session ends before the next evaluation, and at once if that does not come.

        Args:
            next_s: Seconds until a training can be stopped again, if it is not stopped now.
        """
        left_s = self.session.seconds_left
        if left_s < next_s or left_s < 0:
            self.end_session(0.0)
        if left_s < -self.session.margin_s / 2 and self.stop.level == 1:
            self.stop.raise_level()

    def end_session(self, needed_s: float) -> None:
        """Ask for the end of this run since the session ends, and say so once.

        Args:
            needed_s: What the next training takes in seconds, if it is not begun any more.

        Raises:
            UserError: If no session is long enough for it.
        """
        if needed_s > self.session.usable_s:
            raise UserError(
                f"a training may take {duration(needed_s)}, and a session has {duration(self.session.usable_s)} for "
                "it: raise --session-hours, or train for less"
            )
        if not self.stop.level:
            self.stop.end_session(self.session.words)
            why = f"the next training may take {duration(needed_s)}" if needed_s else "it parks before that"
            self.observer.note("session", f"{self.session.words} in {duration(self.session.ends_in_s)}: {why}")

    def close(self) -> None:
        """End every worker; trials that still run are left for the next run to take up."""
        self.pool.close()


class QueueWork:
    """Trainings of one queue in progress: starts them, hears what they report, and ends them.

    Args:
        loop: What lasts from queue to queue.
        queue: Where trials come from.
        may_start: Takes the expected seconds of one training; whether there is time for it.
        watch: Decides at each evaluation where a training ends; None if all train for their budget.
        before: Called with each training before it begins.
    """

    def __init__(
        self,
        loop: EventLoop,
        queue: Queue,
        may_start: Callable[[float], bool],
        watch: Watch | None = None,
        before: Callable[[Assignment], None] | None = None,
    ) -> None:
        self.running: dict[Worker, Running] = {}
        self.is_held_up = False
        """Whether the next training has time until the deadline, and none until the session ends."""
        self._loop = loop
        self._queue = queue
        self._may_start = may_start
        self._watch = watch
        self._before = before
        self._rules = EndRules(queue.study.spec, queue.plan.seeds, loop.stop, loop.deadline, queue.study.trainer.metric)

    @property
    def trials(self) -> list[optuna.Trial]:
        """The trials that are being trained."""
        return [running.assignment.trial for running in self.running.values()]

    def fill(self) -> None:
        """Start trainings on idle workers, as long as there are trials and time for them."""
        loop = self._loop
        self.is_held_up = False
        while loop.pool.has_idle and not loop.stop.level and self._may_start(self._expected_s()):
            self.is_held_up = loop.session.seconds_left <= self.needed_s
            if self.is_held_up:
                return
            require_space(loop.run_directory.root, loop.limits.min_free_bytes)

            assignment = self._queue.take()
            if assignment is None:
                return
            self._start(assignment)

    def is_worth_waiting(self) -> bool:
        """Return, after a moment, whether a peer still trains something that may come back to this queue."""
        is_patient = not self._loop.stop.level and self._may_start(self._expected_s())
        if not is_patient or self._queue.is_settled():
            return False

        time.sleep(TICK_S)
        return True

    def listen(self) -> None:
        """Take what workers have to say, waiting a moment for the first, and end what must end at once."""
        self._mark_unwanted()
        for worker in self._loop.pool.ready(TICK_S):
            self._handle(self.running[worker], worker.receive())

        for running in list(self.running.values()):
            ending = self._rules.at_once(running)
            if ending is not None:
                self._loop.pool.replace(running.worker)
                self._end(running, ending)

    def _mark_unwanted(self) -> None:
        if self._queue.plan.asks_sampler:
            for running in self.running.values():
                running.is_unwanted = running.assignment.trial.number in self._loop.steering.stopped

    @property
    def needed_s(self) -> float:
        """Seconds that must be left of a session for the next training; a full run goes on from its checkpoints."""
        return 0.0 if self._queue.plan.kind is TrainingKind.FULL else MARGIN * self._expected_s()

    def _expected_s(self) -> float:
        plan = self._queue.plan
        return plan.seeds * plan.slowness * self._loop.pace.seconds(plan.budget_tokens)

    def _start(self, assignment: Assignment) -> None:
        if self._before is not None:
            self._before(assignment)
        running = Running(assignment, self._loop.pool.take())
        self.running[running.worker] = running
        running.submit()
        self._announce(running)

    def _announce(self, running: Running) -> None:
        plan = self._queue.plan
        observer = self._loop.observer

        may_have_grown = plan.target is None
        if may_have_grown or observer.board.kind is not plan.kind:
            wanted = self._queue.store.spec.most_trials if plan.asks_sampler else None
            observer.entered(plan.kind, self._queue.records(), wanted)

        observer.started(self._info(running.assignment), running.worker.slot.name)

    def _info(self, assignment: Assignment) -> TrainingInfo:
        plan = self._queue.plan
        return TrainingInfo(
            kind=plan.kind,
            number=assignment.trial.number,
            budget_tokens=assignment.budget_tokens,
            params=assignment.params,
            seed=assignment.seed,
            seeds=plan.seeds,
            seeds_done=plan.seeds - 1 - len(assignment.seeds_left),
        )

    def _handle(self, running: Running, message: Message | None) -> None:
        running.waited_s = time.monotonic() - running.heard
        running.heard = time.monotonic()
        running.is_preparing = False

        if isinstance(message, Preparing):
            running.prepare()
            self._loop.observer.preparing(message.words)
        elif running.probe is not None and isinstance(message, Progress | Done):
            self._handle_probe(running, running.probe, message)
        elif isinstance(message, Progress):
            running.worker.answer(self._answer(running, message.point))
            # Its silence begins with the answer, which may have waited for a database that was away.
            running.heard = time.monotonic()
        elif isinstance(message, Done):
            self._handle_done(running, message)
        elif isinstance(message, Failed) and message.disk_fault and running.ending is None:
            # The trial stays as it is: the next run finds it unfinished and trains it again.
            raise UserError(f"{running.assignment.folder}: {message.disk_fault}", 3)
        elif isinstance(message, Failed):
            self._loop.pool.replace(running.worker)
            # One that was told to stop has its ending, however clumsily it stops.
            self._require_environment(running, message)
            self._end(running, running.ending or ending_of(message))
        else:
            death = Ending(TrialStatus.INTERRUPTED, running.worker.cause_of_death())
            self._loop.pool.replace(running.worker)
            self._end(running, running.ending or death, worker_died=running.ending is None)

    def _require_environment(self, running: Running, message: Failed) -> None:
        """Park the study where a training says that not it, but the machine or the network, is at fault.

        Raises:
            UserError: With exit code 3; its settings come again.
        """
        if message.exit_code == 3 and running.ending is None:
            self._end(running, Ending(TrialStatus.INTERRUPTED, message.message))
            raise UserError(message.message.partition(": ")[2], 3)

    def _handle_probe(self, running: Running, probe: RunningProbe, message: Progress | Done) -> None:
        """Take the speed on which a trial's budget depends, whatever the losses; then the training itself begins."""
        if isinstance(message, Progress):
            running.ending = self._rules.must_stop(running, "in its probe")
            running.worker.answer(probe.take(message.point) and running.ending is None)
        elif running.ending is None and probe.has_points:
            speed = probe.result(message.facts).speed
            running.assignment = self._queue.with_measured_speed(running.assignment, speed)
            running.submit()
        else:
            self._loop.pool.give_back(running.worker)
            self._end(running, running.ending or running.natural_ending(self._rules.metric), message)

    def _answer(self, running: Running, point: EvalPoint) -> bool | int:
        """Take an evaluation and return the answer to it: go on, stop, or end at so many tokens."""
        append_line(running.assignment.folder / "metrics.jsonl", told(point.to_json(), self._rules.metric))
        if self._queue.plan.kind is TrainingKind.FULL:
            self._loop.heed_session(MARGIN * running.waited_s)

        running.ending = self._ending_after(running, point)
        running.points.append(point)
        self._loop.observer.progress(self._info(running.assignment), point)

        if running.ending is not None:
            return False
        if self._watch is None:
            return True

        running.end_tokens = self._watch(running.assignment, running.points)
        if running.end_tokens is None or point.tokens_seen >= running.end_tokens:
            return True
        return running.end_tokens

    def _ending_after(self, running: Running, point: EvalPoint) -> Ending | None:
        """Report an evaluation to Optuna; return how the training must end after it, None if it goes on."""
        ending = not_finite(point, self._rules.metric)
        if ending is not None:
            return ending

        # Of several seeds Optuna is told the final losses alone.
        is_reported = self._queue.plan.seeds == 1
        if is_reported and not self._queue.report(running.assignment, point):
            return taken_over(f"at {self._rules.metric.budget(point.tokens_seen)}")

        return self._rules.after_evaluation(running, point)

    def _handle_done(self, running: Running, done: Done) -> None:
        ending: Ending | None = running.ending or running.natural_ending(self._rules.metric)
        if self._queue.plan.seeds > 1 and ending == Ending(TrialStatus.FINISHED):
            ending = self._after_seed(running)
        if ending is None:
            return

        self._loop.pool.give_back(running.worker)
        self._end(running, ending, done)

    def _after_seed(self, running: Running) -> Ending | None:
        """Begin a trial's next seed and return None, or return how the trial ends."""
        loss = running.points[-1].val_loss
        running.curves.append(running.points)
        count = len(running.curves)
        if not self._queue.report_seed(running.assignment, count, loss):
            return taken_over(f"after {count} of {self._queue.plan.seeds} seeds")

        ending = self._rules.after_seed(running, loss)
        if ending is None:
            running.assignment = self._queue.with_next_seed(running.assignment)
            running.points = []
            running.submit()
        return ending

    def _end(self, running: Running, ending: Ending, done: Done | None = None, worker_died: bool = False) -> None:
        del self.running[running.worker]
        assignment = running.assignment
        if running.is_unwanted:
            ending = as_unwanted(ending)
            worker_died = False
        if ending.status is TrialStatus.STOPPED:
            self._queue.keep_stop(assignment, running.points)
        run_directory = self._loop.run_directory
        facts = done.facts if done else {}
        result = self._queue.passed_on(assignment, running.result(ending, run_directory, facts, worker_died))

        # A hang's duration says nothing about the next training, and must not look like a lack of time.
        if result.points and result.status.teaches:
            # In tokens of the baseline, where a trial's own budget takes the seconds of the baseline's.
            plan, share = self._queue.plan, running.trained_tokens / assignment.budget_tokens
            tokens = round(share * plan.slowness * plan.budget_tokens)
            self._loop.pace.learn(tokens, result.seconds, is_cold=not running.worker.has_trained)
            running.worker.has_trained = True

        self._queue.tell(assignment.trial, result, assignment.folder)
        self._loop.observer.ended(self._info(assignment), result)

        log = run_directory.root / result.log
        self._loop.failures.count(self._queue.plan.kind, assignment.first_attempt, result, log)
