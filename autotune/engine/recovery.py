"""Life and death of running trials: signs of life, what dead processes left behind, and what is trained again."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.core.attributes import TrialAttributes
from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus
from autotune.core.requests import stopped_trials
from autotune.engine.end_rules import as_unwanted
from autotune.engine.running import Ending
from autotune.engine.trial_store import Look, TrialStore
from autotune.store.absence import again_if_cut_off
from autotune.store.run_directory import log_event
from autotune.store.study_store import write_result
from autotune.store.trial_records import record_of

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

    @again_if_cut_off
    def recover(self, own: Collection[int]) -> None:
        """End the trials of dead processes and queue again what was interrupted; safe to repeat.

        Args:
            own: Numbers of the trials that this process is training.
        """
        from optuna.storages import fail_stale_trials

        # Peers look often, and hardly ever find anything: to look takes no lock.
        if self.store.is_shared and not self._has_lost(own):
            return

        with self.store.locked():
            self._finish_telling(own)
            if self.store.is_shared:
                for trial_id in self._silent():
                    self.store.storage.record_heartbeat(trial_id)
                fail_stale_trials(self.store.optuna_study)
            else:
                self._end_orphans(own)
            self.requeue_interrupted(self.store.look())

    def requeue_interrupted(self, look: Look) -> Look:
        """Queue interrupted trials again that were not yet; the caller holds the lock.

        Args:
            look: What is stored at present.

        Returns:
            What is stored after that.
        """
        lost = self._to_repeat(look)
        for trial in lost:
            self._repeat(trial)
            cause = f"trial {trial.number} was interrupted; its settings are queued again"
            log_event(self.store.run, "requeued", cause)
        return self.store.look() if lost else look

    def _to_repeat(self, look: Look) -> list[FrozenTrial]:
        """Return the interrupted trials that are to be queued again."""
        interrupted = [record.number for record in look.records if record.status is TrialStatus.INTERRUPTED]
        if not interrupted:
            return []

        repeated = {number for trial in look.trials for number in attempts_before(trial)}
        settled = repeated | stopped_trials(look.attributes.requests)
        lost = [look.trials[number] for number in interrupted if number not in settled]
        return [trial for trial in lost if self._may_repeat(trial, look)]

    def _may_repeat(self, trial: FrozenTrial, look: Look) -> bool:
        """Return whether a trial has not failed too often.

        A worker that dies again and again is the fault of the settings; a run that is killed or parked is not.
        """
        attempts = [self._record(look.trials[number]) for number in [*attempts_before(trial), trial.number]]
        return sum(not attempt.excused for attempt in attempts) <= self.store.study.spec.limits.retries

    @again_if_cut_off
    def try_again(self, number: int) -> None:
        """Queue a trial's settings and role again, however it ended and however often; once for each time it ended.

        Args:
            number: The trial's number.
        """
        with self.store.locked():
            trials = self.store.trials()
            if all(number not in attempts_before(trial) for trial in trials):
                self._repeat(trials[number])

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        return record_of(trial, self.store.study.spec.budget)

    def _has_lost(self, own: Collection[int]) -> bool:
        """Return whether a dead process seems to have left anything to do."""
        look = self.store.look()
        is_untold = any(record.result is not None for record in _abandoned(look.records, own))
        if is_untold or self._to_repeat(look) or self._silent():
            return True
        return bool(self.store.storage._get_stale_trial_ids(self.store.optuna_study._study_id))

    def _finish_telling(self, own: Collection[int]) -> None:
        """Tell Optuna what a process stored just before it died; a result is stored and told under one lock."""
        for record in _abandoned(self.store.records(), own):
            if record.result is not None:
                self.store.tell_optuna(record.number, record.result)

    def _silent(self) -> list[int]:
        """Return the ids of running trials without any sign of life, which get a first one, so as to become stale.

        A peer that died between drawing a trial and its first beat would otherwise never be noticed.
        """
        from autotune.store.postgresql import SharedStorage

        assert isinstance(self.store.storage, SharedStorage)
        return self.store.storage.silent_trial_ids(self.store.optuna_study._study_id)

    def _end_orphans(self, own: Collection[int]) -> None:
        """End the trials that a dead process left running."""
        from optuna import Trial

        look = self.store.look()
        unwanted = stopped_trials(look.attributes.requests)
        for record in _abandoned(look.records, own):
            points = tuple(EvalPoint(tokens, loss) for tokens, loss in sorted(record.values.items()))
            ending = Ending(TrialStatus.INTERRUPTED, "the run was killed")
            if record.number in unwanted:
                ending = as_unwanted(ending)
            result = TrialResult(ending.status, ending.cause, points)
            trial = Trial(self.store.optuna_study, look.trials[record.number]._trial_id)
            folder = self.store.run.trial(self.folder_name, record.number)
            write_result(result, folder, self.store.study.trainer.metric)
            self.store.finish(trial, result)

    def _repeat(self, trial: FrozenTrial) -> None:
        from optuna.storages import RetryHeartbeatStaleTrialCallback

        RetryHeartbeatStaleTrialCallback()(self.store.optuna_study, _as_new(trial))


def _abandoned(records: Sequence[TrialRecord], own: Collection[int]) -> list[TrialRecord]:
    return [record for record in records if record.status is TrialStatus.RUNNING and record.number not in own]


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
