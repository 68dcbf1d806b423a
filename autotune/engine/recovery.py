"""Life and death of running trials: signs of life, what dead processes left behind, and what is trained again."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.core.attributes import PRIOR, TrialAttributes
from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus
from autotune.core.requests import stopped_trials
from autotune.engine.end_rules import as_unwanted
from autotune.engine.running import Ending
from autotune.engine.trial_store import TrialStore
from autotune.store.run_directory import log_event
from autotune.store.study_store import record_of

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Recovery:
    """Ends what dead processes left running, and queues interrupted trials again.

    Args:
        store: The trials.
        folder_name: Their folder, relative to the run directory.
    """

    store: TrialStore
    folder_name: str

    def beat(self, trials: Sequence[optuna.Trial]) -> None:
        """Record a sign of life of running trials, for the peers of a shared storage."""
        if not self.store.is_shared:
            return

        for trial in trials:
            self.store.storage.record_heartbeat(trial._trial_id)

    def recover(self, own: Collection[int]) -> None:
        """End the trials of dead processes and queue again what was interrupted; safe to repeat.

        Args:
            own: Numbers of the trials that this process is training.
        """
        from optuna.storages import fail_stale_trials

        with self.store.locked():
            self._finish_telling(own)
            if self.store.is_shared:
                self._beat_for_silent()
                fail_stale_trials(self.store.optuna_study)
            else:
                self._end_orphans(own)
            self.requeue_interrupted()

    def requeue_interrupted(self) -> None:
        """Queue interrupted trials again that were not yet; the caller holds the lock."""
        trials = self._trials()
        unwanted = self._unwanted()
        repeated = {number for trial in trials for number in attempts_before(trial)}

        for trial in trials:
            record = self._record(trial)
            if trial.number in repeated or record.role == PRIOR or record.status is not TrialStatus.INTERRUPTED:
                continue
            if TrialAttributes(trial).passed_over or trial.number in unwanted:
                continue
            attempts = [self._record(trials[number]) for number in [*attempts_before(trial), trial.number]]
            # A worker that dies again and again is the fault of the settings; a run that is killed or parked is not.
            if sum(not attempt.excused for attempt in attempts) <= self.store.study.spec.limits.retries:
                self._repeat(trial)
                cause = f"trial {trial.number} was interrupted; its settings are queued again"
                log_event(self.store.run, "requeued", cause)

    def try_again(self, number: int) -> None:
        """Queue a trial's settings and role again, however it ended and however often; once for each time it ended.

        Args:
            number: The trial's number.
        """
        with self.store.locked():
            trials = self._trials()
            if all(number not in attempts_before(trial) for trial in trials):
                self._repeat(trials[number])

    def _trials(self) -> list[FrozenTrial]:
        return self.store.optuna_study.get_trials(deepcopy=False)

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        return record_of(trial, self.store.study.spec.budget)

    def _unwanted(self) -> frozenset[int]:
        """Return the trials of a search that a person has stopped."""
        return stopped_trials(self.store.attributes.requests)

    def _abandoned(self, own: Collection[int]) -> list[TrialRecord]:
        records = self.store.records()
        return [record for record in records if record.status is TrialStatus.RUNNING and record.number not in own]

    def _finish_telling(self, own: Collection[int]) -> None:
        """Tell Optuna what a process stored just before it died; a result is stored and told under one lock."""
        for record in self._abandoned(own):
            if record.result is not None:
                self.store.tell_optuna(record.number, record.result)

    def _beat_for_silent(self) -> None:
        """Give running trials without any sign of life a first one, so that they can become stale.

        A peer that died between drawing a trial and its first beat would otherwise never be noticed.
        """
        from sqlalchemy import text

        with self.store.storage.engine.connect() as connection:
            heard = set(connection.execute(text("SELECT trial_id FROM trial_heartbeats")).scalars())

        for trial in self._trials():
            is_running = self._record(trial).status is TrialStatus.RUNNING
            if is_running and trial._trial_id not in heard:
                self.store.storage.record_heartbeat(trial._trial_id)

    def _end_orphans(self, own: Collection[int]) -> None:
        """End the trials that a dead process left running."""
        from optuna import Trial

        unwanted = self._unwanted()
        for record in self._abandoned(own):
            points = tuple(EvalPoint(tokens, loss) for tokens, loss in sorted(record.values.items()))
            ending = Ending(TrialStatus.INTERRUPTED, "the run was killed")
            if record.number in unwanted:
                ending = as_unwanted(ending)
            result = TrialResult(ending.status, ending.cause, points)
            trial = Trial(self.store.optuna_study, self._trials()[record.number]._trial_id)
            folder = self.store.run.trial(self.folder_name, record.number)
            self.store.finish(trial, result, folder)

    def _repeat(self, trial: FrozenTrial) -> None:
        from optuna.storages import RetryHeartbeatStaleTrialCallback

        RetryHeartbeatStaleTrialCallback()(self.store.optuna_study, _as_new(trial))


def attempts_before(trial: FrozenTrial) -> list[int]:
    """Return the numbers of the interrupted trials that a trial repeats, oldest first."""
    return list(trial.system_attrs.get("retry_history", []))


def _as_new(trial: FrozenTrial) -> FrozenTrial:
    """Return a copy of a trial without what came of it, for another attempt that keeps its settings and its role."""
    stored = TrialAttributes
    outcome = [part.name for part in (stored.result, stored.curve, stored.audited_at, stored.stopped_at, stored.peer)]

    fresh = copy.deepcopy(trial)
    fresh.user_attrs = {name: value for name, value in trial.user_attrs.items() if name not in outcome}
    return fresh
