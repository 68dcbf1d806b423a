"""What is to be trained next: three Optuna studies of one storage, drawn from in the same way.

The search asks its sampler; the finals and longer runs hold trials that were queued beforehand. Because all of them are
Optuna studies, killing, resuming and sharing between machines work alike for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.attributes import TrialAttributes
from autotune.core.objectives import comparable_tokens
from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus
from autotune.engine.assignment import Assignment, TrainingPlan
from autotune.engine.draw import Draw
from autotune.engine.recovery import Recovery
from autotune.engine.trial_store import TrialStore
from autotune.progress.board import title
from autotune.store.absence import again_if_cut_off
from autotune.store.run_directory import RunDirectory, log_event
from autotune.store.study_store import write_result
from autotune.study.study_file import Study

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage


@dataclass(frozen=True)
class Queue:
    """Trials of one plan, each given out once.

    It holds no state of its own: everything is in the storage, and two queues of the same plan and store are alike.

    Args:
        plan: What its trainings have in common.
        store: Its trials.
        note: Takes the kind of something noteworthy and a sentence about it.
    """

    plan: TrainingPlan
    store: TrialStore
    note: Callable[[str, str], None] = lambda kind, message: None

    @property
    def optuna_study(self) -> optuna.Study:
        """Where its trials are stored."""
        return self.store.optuna_study

    @property
    def storage(self) -> RDBStorage:
        """The storage of its Optuna study."""
        return self.store.storage

    @property
    def run(self) -> RunDirectory:
        """The run directory."""
        return self.store.run

    @property
    def study(self) -> Study:
        """The study file and trainer."""
        return self.store.study

    @property
    def budget_tokens(self) -> int:
        """Tokens of each training, or of the baseline's where equal seconds decide."""
        return self.plan.budget_tokens

    def records(self) -> list[TrialRecord]:
        """Return all of its trials, by number."""
        return self.store.records()

    def enqueue(self, params: Mapping[str, Any], **attributes: Any) -> None:
        """Queue settings, unless a trial of the same settings and attributes is there already.

        Args:
            params: Settings by dotted path.
            attributes: What else identifies the trial (role, arm, stage, seed).
        """
        fixed = params if self.plan.asks_sampler else {}
        self.store.enqueue({**attributes, "params": dict(params)}, fixed)

    @again_if_cut_off
    def take(self) -> Assignment | None:
        """Draw the next trial.

        Returns:
            None when there is nothing to start now.
        """
        while True:
            # What must be decided once is whether a trial begins. What it trains is proposed while peers go on.
            with self.store.locked():
                look = self._recovery.requeue_interrupted(self.store.look())
                trial = self._draw.begin(look)
            if trial is None:
                return None

            # Should this process die before it: a sweep of its peers gives a trial its first sign of life.
            self.beat([trial])
            if self._draw.settle(trial, look):
                return self._draw.assign(trial)

    def with_next_seed(self, assignment: Assignment) -> Assignment:
        """Return the same training with the next of its trial's seeds."""
        return self._draw.with_next_seed(assignment)

    def with_measured_speed(self, assignment: Assignment, tokens_per_s: float) -> Assignment:
        """Return the training that a probe was for, with the budget that the measured speed gives it."""
        return self._draw.with_measured_speed(assignment, tokens_per_s)

    def report(self, assignment: Assignment, point: EvalPoint) -> bool:
        """Store an evaluation, under the tokens of the baseline at the same share of its budget.

        Returns:
            False if a peer has ended the trial meanwhile; see `TrialStore.report`.
        """
        place = point.tokens_seen
        if self.plan.equal_seconds is not None:
            place = comparable_tokens(place, assignment.budget_tokens, self.plan.budget_tokens)
        return self.store.report(assignment.trial, place, point.val_loss)

    def report_seed(self, assignment: Assignment, count: int, loss: float) -> bool:
        """Store the final loss of one of a trial's seeds, under the number of seeds that are trained.

        Returns:
            False if a peer has ended the trial meanwhile; see `TrialStore.report`.
        """
        return self.store.report(assignment.trial, count, loss)

    def keep_stop(self, assignment: Assignment, points: Sequence[EvalPoint]) -> None:
        """Store where a person stopped a trial, as the place where the pruner stops one is: both are forecast alike.

        Args:
            assignment: The training.
            points: Its evaluations.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        if points:
            with contextlib.suppress(UpdateFinishedTrialError):  # the peer that has ended it has stored what it knew
                TrialAttributes(assignment.trial).stopped_at = points[-1].tokens_seen

    @again_if_cut_off
    def tell(self, trial: optuna.Trial, result: TrialResult, folder: Path) -> None:
        """Store a trial's result and tell Optuna.

        An interrupted trial's settings are queued again before any peer can see them missing.

        Args:
            trial: A running trial.
            result: How it ended.
            folder: Where its files go.
        """
        write_result(result, folder, self.study.trainer.metric)
        with self.store.locked():
            if not self.store.finish(trial, result):
                cause = f"another process ended {title(self.plan.kind, trial.number)} in the meantime"
                log_event(self.run, "taken over", cause)
            if result.status is TrialStatus.INTERRUPTED:
                self._recovery.requeue_interrupted(self.store.look())

    def beat(self, trials: Sequence[optuna.Trial]) -> None:
        """Record a sign of life of running trials, for the peers of a shared storage."""
        self._recovery.beat(trials)

    def recover(self, own: Collection[int] = ()) -> None:
        """End the trials of dead processes and queue again what was interrupted; safe to repeat.

        Args:
            own: Numbers of the trials that this process is training.
        """
        self._recovery.recover(own)

    def try_again(self, number: int) -> None:
        """Queue a trial's settings and role again, however it ended and however often; once for each time it ended."""
        self._recovery.try_again(number)

    def has_next(self) -> bool:
        """Return whether there is something to start, by what is stored at this moment."""
        return self._draw.has_next(self.store.look())

    @again_if_cut_off
    def is_settled(self) -> bool:
        """Return whether no trial waits that anybody at work may train, and none runs that may come back."""
        if self._is_unsettled():
            return False

        # A peer may be about to queue again what it has just told as interrupted.
        with self.store.locked():
            return not self._is_unsettled()

    def is_abandoned(self) -> bool:
        """Return whether trials wait for a class of devices that is neither this process's nor another's at work."""
        if self.plan.is_for(self.store.device):
            return False
        waiting = [record for record in self.records() if record.status is TrialStatus.WAITING]
        return any(not self.store.may_be_trained(record, self.plan.only_on) for record in waiting)

    def _is_unsettled(self) -> bool:
        records = self.records()
        if any(record.status is TrialStatus.RUNNING for record in records):
            return True
        waiting = [record for record in records if record.status is TrialStatus.WAITING]
        return any(self.store.may_be_trained(record, self.plan.only_on) for record in waiting)

    def passed_on(self, assignment: Assignment, result: TrialResult) -> TrialResult:
        """Return how a training counts: what does not fit into this device is left to a larger one that is at work.

        Args:
            assignment: The training.
            result: How it ended.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        is_candidate = result.status is TrialStatus.OUT_OF_MEMORY and self.plan.asks_sampler
        if not is_candidate or not self.store.has_larger_device():
            return result

        device = self.store.device
        with contextlib.suppress(UpdateFinishedTrialError):
            TrialAttributes(assignment.trial).needs_bytes = device.memory_bytes
        size = f"{device.memory_bytes / 2**30:.1f} GiB"
        cause = f"it does not fit into the {size} of {device.name}: a device with more memory trains it"
        return replace(result, status=TrialStatus.INTERRUPTED, cause=cause)

    @property
    def _draw(self) -> Draw:
        return Draw(self.plan, self.store, self.note)

    @property
    def _recovery(self) -> Recovery:
        return Recovery(self.store, self.plan.folder_name)
