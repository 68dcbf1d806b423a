"""What is to be trained next: three Optuna studies of one storage, drawn from in the same way.

The search asks its sampler; the finals and the full run hold trials that were queued beforehand. Because
all three are Optuna studies, killing, resuming and sharing between machines work alike for them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.records import TrialRecord, TrialResult, TrialStatus, UserError
from autotune.run_directory import RunDirectory, log_event, write_json
from autotune.space import flatten, with_paths
from autotune.spec import Study
from autotune.storage import exclusive, is_shared, record_of, save_result

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage

# Trials asked for per trial wanted, before the study gives up on ever getting them done.
MAX_ATTEMPTS = 4
# Marks a study whose sampler has proposed every combination there is.
EXHAUSTED = "exhausted"


@dataclass(frozen=True)
class Assignment:
    """A trial that was drawn and what it trains.

    Args:
        trial: The running Optuna trial.
        params: Its settings by dotted path.
        config: The resolved configuration.
        folder: Where its files go.
        budget_tokens: Tokens to train on.
    """

    trial: optuna.Trial
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    folder: Path
    budget_tokens: int


@dataclass
class Queue:
    """Trials of one Optuna study, each given out once.

    Args:
        kind: "trials", "finals" or "full"; the folder of its trials' files.
        optuna_study: Where they are stored.
        storage: Its storage.
        run: The run directory.
        study: The study file and trainer.
        overrides: What the engine fills into each config (device, dtype, ...), by dotted path.
        budget_tokens: Tokens of each trial.
        target: Trials that the search wants done; None for a queue of fixed trials.
        mine: Numbers of the trials that this process runs now.
    """

    kind: str
    optuna_study: optuna.Study
    storage: RDBStorage
    run: RunDirectory
    study: Study
    overrides: Mapping[str, Any]
    budget_tokens: int
    target: int | None = None
    mine: set[int] = field(default_factory=set)

    def records(self) -> list[TrialRecord]:
        """Returns all of its trials, by number."""
        return [record_of(trial) for trial in self.optuna_study.get_trials(deepcopy=False)]

    def take(self) -> Assignment | None:
        """Draws the next trial, or returns None when there is nothing to start now."""
        with exclusive(self.storage, self.study.spec.name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns that heartbeats belong to optimize()
            if not self._has_next():
                return None
            trial = self.optuna_study.ask()
            self.beat([trial])
        self.mine.add(trial.number)
        return self._assign(trial)

    def _has_next(self) -> bool:
        records = self.records()
        if any(record.status is TrialStatus.WAITING for record in records):
            return True
        if self.target is None or EXHAUSTED in self.optuna_study.user_attrs:
            return False
        if len(records) >= MAX_ATTEMPTS * self.target + MAX_ATTEMPTS:
            raise UserError(
                f"{len(records)} trials were started for {self.target} wanted, and too few of them ended; "
                f"see the logs under {self.run.root / self.kind}",
                1,
            )
        counted = sum(record.status is not TrialStatus.INTERRUPTED for record in records)
        return counted < self.target

    def _assign(self, trial: optuna.Trial) -> Assignment:
        spec = self.study.spec
        stored = record_of(trial.storage.get_trial(trial._trial_id))
        if self.kind == "trials":
            params: Mapping[str, Any] = spec.space.suggest(trial, spec.base)
        else:
            params = trial.user_attrs["params"]
        seed = stored.seed or spec.seed
        trial.set_user_attr("seed", seed)
        config = with_paths(spec.base, {**self.overrides, **params, **present(spec.base, {"seed": seed})})
        folder = self.run.trial(self.kind, trial.number)
        write_json(folder / "config.json", config)
        return Assignment(trial, params, config, folder, self.budget_tokens)

    def beat(self, trials: Sequence[optuna.Trial]) -> None:
        """Records a sign of life of running trials, for the peers of a shared storage."""
        if is_shared(self.storage):
            for trial in trials:
                self.storage.record_heartbeat(trial._trial_id)

    def running_elsewhere(self) -> int:
        """Returns how many trials other processes run now."""
        records = self.records()
        return sum(record.status is TrialStatus.RUNNING and record.number not in self.mine for record in records)

    def tell(self, trial: optuna.Trial, result: TrialResult, folder: Path) -> None:
        """Stores a result and tells Optuna: a fault of the machine as failed, all else so that it teaches.

        Optuna's samplers ignore failed trials, so a divergence or a lack of memory told as a failure would
        be proposed again and again; as pruned, with its last finite loss, it teaches.
        """
        save_result(trial, result, folder)
        _tell_optuna(self.optuna_study, trial.number, result)
        self.mine.discard(trial.number)
        if result.status is TrialStatus.INTERRUPTED:
            self.recover()

    def recover(self) -> None:
        """Ends the trials of dead processes and queues what was interrupted again; safe to repeat."""
        from optuna.storages import fail_stale_trials

        with exclusive(self.storage, self.study.spec.name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both calls are marked experimental
            if is_shared(self.storage):
                self._beat_for_silent()
                fail_stale_trials(self.optuna_study)
            else:
                self._end_orphans()
            self._requeue()

    def _beat_for_silent(self) -> None:
        """Gives running trials without any sign of life a first one, so that they can become stale.

        A peer that died between drawing a trial and its first beat would otherwise never be found.
        """
        from sqlalchemy import text

        with self.storage.engine.connect() as connection:
            heard = set(connection.execute(text("SELECT trial_id FROM trial_heartbeats")).scalars())
        for trial in self.optuna_study.get_trials(deepcopy=False):
            if record_of(trial).status is TrialStatus.RUNNING and trial._trial_id not in heard:
                self.storage.record_heartbeat(trial._trial_id)

    def _end_orphans(self) -> None:
        """Tells Optuna about trials that a dead process left running; a stored result is kept."""
        for record in self.records():
            if record.status is not TrialStatus.RUNNING or record.number in self.mine:
                continue
            result = record.result or TrialResult(TrialStatus.INTERRUPTED, "the run was killed")
            _tell_optuna(self.optuna_study, record.number, result)

    def _requeue(self) -> None:
        from optuna.storages import RetryHeartbeatStaleTrialCallback

        retry = RetryHeartbeatStaleTrialCallback(max_retry=self.study.spec.limits.retries)
        trials = self.optuna_study.get_trials(deepcopy=False)
        repeated = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
        for trial in trials:
            if record_of(trial).status is TrialStatus.INTERRUPTED and trial.number not in repeated:
                retry(self.optuna_study, _as_new(trial))
                log_event(self.run, "requeued", f"trial {trial.number} was interrupted; its settings are queued again")

    def enqueue(self, params: Mapping[str, Any], **attributes: Any) -> None:
        """Queues settings, unless a trial with the same attributes is there already.

        Args:
            params: Settings by dotted path.
            attributes: What identifies the trial (role, arm, stage, seed).
        """
        for trial in self.optuna_study.get_trials(deepcopy=False):
            if all(trial.user_attrs.get(key) == value for key, value in attributes.items()):
                return
        fixed = dict(params) if self.kind == "trials" else {}
        self.optuna_study.enqueue_trial(fixed, user_attrs={**attributes, "params": dict(params)})


def _tell_optuna(study: optuna.Study, number: int, result: TrialResult) -> None:
    from optuna.trial import TrialState

    try:
        if result.status is TrialStatus.FINISHED:
            study.tell(number, result.points[-1].val_loss)
        else:
            study.tell(number, state=TrialState.PRUNED if result.status.teaches else TrialState.FAIL)
    except RuntimeError as error:
        # A grid that is used up calls Study.stop, which exists only inside optimize(); the trial is told by then.
        if "Study.stop" not in str(error):
            raise
        study.set_user_attr(EXHAUSTED, True)


def _as_new(trial: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
    """Returns a copy of a trial without its result, for a retry that keeps its settings and its role."""
    import copy

    fresh = copy.deepcopy(trial)
    fresh.user_attrs = {key: value for key, value in trial.user_attrs.items() if key != "result"}
    return fresh


def present(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those values whose dotted path the base config has.

    The engine fills in `seed`, `system.*` and `output.dir`; a trainer without them gets none.
    """
    known = flatten(base)
    return {path: value for path, value in values.items() if path in known}


def hardware_overrides(study: Study, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the hardware decides in each config, less what the study file sets itself.

    Args:
        study: The study.
        overrides: `HardwareProfile.overrides()`, by dotted path.
    """
    free = {path: value for path, value in overrides.items() if path not in study.explicit}
    return present(study.spec.base, free)
