"""What is to be trained next: three Optuna studies of one storage, drawn from in the same way.

The search asks its sampler; the finals and the full run hold trials that were queued beforehand. Because
all three are Optuna studies, killing, resuming and sharing between machines work alike for them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.attributes import PRIOR, StudyAttributes, TrialAttributes
from autotune.core.config_paths import present, with_paths
from autotune.core.errors import UserError
from autotune.core.files import write_json
from autotune.core.objectives import comparable_tokens, values
from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus
from autotune.engine.equal_seconds import EqualSeconds
from autotune.search import ranges
from autotune.search.space import SearchSpace
from autotune.store.database import exclusive, is_shared
from autotune.store.run_directory import RunDirectory, log_event
from autotune.store.study_store import own_records, record_of, save_result
from autotune.study.study_file import Study

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage

# Trials asked for per trial wanted, before the study gives up on ever getting them done.
MAX_ATTEMPTS = 4


@dataclass(frozen=True)
class Assignment:
    """A trial that was drawn and what it trains.

    Args:
        trial: The running Optuna trial.
        params: Its settings by dotted path.
        config: The resolved configuration.
        folder: Where its files go.
        budget_tokens: Tokens to train on.
        first: Number of the first attempt at these settings; its own unless an interrupted trial is repeated.
        probe_points: None for the training itself. Else it is a probe first, which decides the budget: evaluations
            after which that ends, 0 for its whole budget.
        seeds_left: Seeds that it is trained with after this one.
    """

    trial: optuna.Trial
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    folder: Path
    budget_tokens: int
    first: int
    probe_points: int | None = None
    seeds_left: tuple[int, ...] = ()


@dataclass
class Queue:
    """Trials of one Optuna study, each given out once.

    Args:
        kind: "trials", "finals", "bracket" or "full".
        optuna_study: Where they are stored.
        storage: Its storage.
        run: The run directory.
        study: The study file and trainer.
        overrides: What the engine fills into each config (device, dtype, ...), by dotted path.
        budget_tokens: Tokens of each trial, or of the baseline's.
        target: Trials that the search wants done; None for a queue of fixed trials.
        note: Takes the kind of something noteworthy and a sentence about it.
        mine: Numbers of the trials that this process runs now.
        equal_seconds: Gives each configuration its own budget; None if all have the same.
        slowness: Seconds of a token here as a multiple of a token's of the baseline.
        folder: Where its trials' files go, below the run directory; "" is the folder of its kind's name.
        watch: Takes each evaluation of a training, with those before it, and returns the tokens at which that shall
            end, None for its budget.
    """

    kind: str
    optuna_study: optuna.Study
    storage: RDBStorage
    run: RunDirectory
    study: Study
    overrides: Mapping[str, Any]
    budget_tokens: int
    target: int | None = None
    note: Callable[[str, str], None] = lambda kind, message: None
    mine: set[int] = field(default_factory=set)
    equal_seconds: EqualSeconds | None = None
    slowness: float = 1.0
    folder: str = ""
    watch: Callable[[Assignment, Sequence[EvalPoint]], int | None] | None = None

    def records(self) -> list[TrialRecord]:
        """Returns all of its trials, by number."""
        return own_records(self.optuna_study.get_trials(deepcopy=False), self.study.spec.budget)

    def take(self) -> Assignment | None:
        """Draws the next trial, or returns None when there is nothing to start now."""
        with exclusive(self.storage, self.study.spec.name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns that heartbeats belong to optimize()
            self._requeue()
            if not self._has_next():
                return None
            self._widen()
            trial = self.optuna_study.ask()
            self.beat([trial])
        self.mine.add(trial.number)
        return self._assign(trial)

    def _has_next(self) -> bool:
        records = self.records()
        if any(record.status is TrialStatus.WAITING for record in records):
            return True
        if self.target is None or self.attributes.exhausted:
            return False
        attempts = sum(not record.excused for record in records)
        if attempts >= MAX_ATTEMPTS * self.target + MAX_ATTEMPTS:
            raise UserError(
                f"{attempts} trials were started for {self.target} wanted, and too few of them ended; "
                f"see the logs under {self._folder(0).parent}",
                1,
            )
        counted = sum(record.status is not TrialStatus.INTERRUPTED for record in records)
        return counted < self.target

    def _folder(self, number: int) -> Path:
        return self.run.trial(self.folder or self.kind, number)

    @property
    def attributes(self) -> StudyAttributes:
        """What is stored with its Optuna study."""
        return StudyAttributes(self.optuna_study)

    @property
    def space(self) -> SearchSpace:
        """What is searched at present."""
        return self.study.spec.space.with_ranges(self.attributes.ranges)

    def _widen(self) -> None:
        one_value = len(self.optuna_study.directions) == 1  # of several, the lowest loss is no optimum
        if self.kind != "trials" or self.study.spec.sampler.name not in ranges.CHANGING_RANGE_SAMPLERS or not one_value:
            return
        space = self.space
        found = ranges.widened_ranges(space, self.records())
        if found:
            self.attributes.ranges = {**self.attributes.ranges, **found}
            self.note("ranges", ranges.describe_widening(space, found))

    def _assign(self, trial: optuna.Trial) -> Assignment:
        spec = self.study.spec
        attributes = TrialAttributes(trial)
        frozen = self.storage.get_trial(trial._trial_id)
        first = (_attempts_before(frozen) or [trial.number])[0]
        if self.kind == "trials":
            params: Mapping[str, Any] = self.space.suggest(trial, spec.base)
        else:
            params = attributes.params
        seed = attributes.seed or spec.seed
        attributes.seed = seed
        config = with_paths(spec.base, {**self.overrides, **params, **present(spec.base, {"seed": seed})})
        folder = self._folder(trial.number)
        write_json(folder / "config.json", config)
        budget_tokens, probe_points = self._length(trial, params, config)
        seeds_left = tuple(range(seed + 1, seed + self.seeds))
        return Assignment(trial, params, config, folder, budget_tokens, first, probe_points, seeds_left)

    @property
    def seeds(self) -> int:
        """Seeds that each trial trains."""
        return self.study.spec.budget.seeds if self.kind == "trials" else 1

    def with_next_seed(self, assignment: Assignment) -> Assignment:
        """Returns the same training with the next of its trial's seeds."""
        seed, *others = assignment.seeds_left
        config = with_paths(assignment.config, present(self.study.spec.base, {"seed": seed}))
        return replace(assignment, config=config, seeds_left=tuple(others))

    def _length(
        self, trial: optuna.Trial, params: Mapping[str, Any], config: Mapping[str, Any]
    ) -> tuple[int, int | None]:
        """Returns a trial's token budget and None, or the length of the probe that has to decide it."""
        if self.equal_seconds is None:
            return self.budget_tokens, None
        # A repeated trial trains as long as its first attempt.
        attributes = TrialAttributes(trial)
        tokens = attributes.budget_tokens or self.equal_seconds.tokens(params, config)
        if tokens is None:
            return self.equal_seconds.probe_length
        attributes.budget_tokens = tokens
        return tokens, None

    def measured(self, assignment: Assignment, tokens_per_s: float) -> Assignment:
        """Returns the training that a probe was for, with the budget that the measured speed gives it."""
        from optuna.exceptions import UpdateFinishedTrialError

        assert self.equal_seconds is not None
        tokens = self.equal_seconds.keep(assignment.params, assignment.config, tokens_per_s)
        with contextlib.suppress(UpdateFinishedTrialError):  # taken over by a peer: its first report will show that
            TrialAttributes(assignment.trial).budget_tokens = tokens
        return replace(assignment, budget_tokens=tokens, probe_points=None)

    def beat(self, trials: Sequence[optuna.Trial]) -> None:
        """Records a sign of life of running trials, for the peers of a shared storage."""
        if is_shared(self.storage):
            for trial in trials:
                self.storage.record_heartbeat(trial._trial_id)

    def is_settled(self) -> bool:
        """Whether no trial waits and no other process runs one that may come back to be repeated."""
        with exclusive(self.storage, self.study.spec.name):
            records = self.records()
        return not any(
            record.status is TrialStatus.WAITING
            or (record.status is TrialStatus.RUNNING and record.number not in self.mine)
            for record in records
        )

    def report(self, assignment: Assignment, point: EvalPoint) -> bool:
        """Stores an evaluation, under the tokens of the baseline at the same share of its budget.

        Returns:
            False if the trial is no longer ours: this process gave no sign of life for so long (a suspended
            machine, a lost network) that a peer ended the trial.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        trial, tokens = assignment.trial, point.tokens_seen
        attributes = TrialAttributes(trial)
        if self.equal_seconds is not None:
            tokens = comparable_tokens(tokens, assignment.budget_tokens, self.budget_tokens)
        try:
            if len(self.optuna_study.directions) > 1:
                # Optuna refuses a curve here, and a pruned trial that has one in its storage would crash TPE.
                attributes.curve = {**attributes.curve, tokens: point.val_loss}
            else:
                trial.report(point.val_loss, step=tokens)
        except UpdateFinishedTrialError:
            return False
        return True

    def report_seed(self, assignment: Assignment, count: int, loss: float) -> bool:
        """Stores the final loss of one of a trial's seeds, under their count; returns as `report` does."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            assignment.trial.report(loss, step=count)
        except UpdateFinishedTrialError:
            return False
        return True

    def tell(self, trial: optuna.Trial, result: TrialResult, folder: Path) -> None:
        """Stores a result and tells Optuna: a fault of the machine as failed, all else so that it teaches.

        Optuna's samplers ignore failed trials, so a divergence or a lack of memory told as a failure would
        be proposed again and again; as pruned, with its last finite loss, it teaches. An interrupted trial's
        settings are queued again before any peer can see them missing.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        self.mine.discard(trial.number)
        with exclusive(self.storage, self.study.spec.name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the retry callback is marked experimental
            try:
                save_result(trial, result, folder)
                _tell_optuna(self.optuna_study, trial.number, result)
            except UpdateFinishedTrialError:
                log_event(self.run, "taken over", f"a peer ended {self.kind} {trial.number} in the meantime")
            self._requeue()

    def recover(self) -> None:
        """Ends the trials of dead processes and queues what was interrupted again; safe to repeat."""
        from optuna.storages import fail_stale_trials

        with exclusive(self.storage, self.study.spec.name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both calls are marked experimental
            self._finish_telling()
            if is_shared(self.storage):
                self._beat_for_silent()
                fail_stale_trials(self.optuna_study)
            else:
                self._end_orphans()
            self._requeue()

    def _finish_telling(self) -> None:
        """Tells Optuna what a process stored just before it died; a result is stored and told under one lock."""
        for record in self._abandoned():
            if record.result is not None:
                _tell_optuna(self.optuna_study, record.number, record.result)

    def _abandoned(self) -> list[TrialRecord]:
        running = [record for record in self.records() if record.status is TrialStatus.RUNNING]
        return [record for record in running if record.number not in self.mine]

    def _beat_for_silent(self) -> None:
        """Gives running trials without any sign of life a first one, so that they can become stale.

        A peer that died between drawing a trial and its first beat would otherwise never be found.
        """
        from sqlalchemy import text

        with self.storage.engine.connect() as connection:
            heard = set(connection.execute(text("SELECT trial_id FROM trial_heartbeats")).scalars())
        for trial in self.optuna_study.get_trials(deepcopy=False):
            status = record_of(trial, self.study.spec.budget).status
            if status is TrialStatus.RUNNING and trial._trial_id not in heard:
                self.storage.record_heartbeat(trial._trial_id)

    def _end_orphans(self) -> None:
        """Ends the trials that a dead process left running."""
        from optuna import Trial

        for record in self._abandoned():
            points = tuple(EvalPoint(tokens, loss) for tokens, loss in sorted(record.values.items()))
            result = TrialResult(TrialStatus.INTERRUPTED, "the run was killed", points)
            trial = Trial(self.optuna_study, self.optuna_study.get_trials(deepcopy=False)[record.number]._trial_id)
            save_result(trial, result, self._folder(record.number))
            _tell_optuna(self.optuna_study, record.number, result)

    def try_again(self, number: int) -> None:
        """Queues a trial's settings and role again, however it ended and however often; once for each time it ended."""
        with exclusive(self.storage, self.study.spec.name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the retry callback is marked experimental
            trials = self.optuna_study.get_trials(deepcopy=False)
            if all(number not in _attempts_before(trial) for trial in trials):
                self._repeat(trials[number])

    def _repeat(self, trial: optuna.trial.FrozenTrial) -> None:
        from optuna.storages import RetryHeartbeatStaleTrialCallback

        RetryHeartbeatStaleTrialCallback()(self.optuna_study, _as_new(trial))

    def _requeue(self) -> None:
        trials = self.optuna_study.get_trials(deepcopy=False)
        budget = self.study.spec.budget
        repeated = {number for trial in trials for number in _attempts_before(trial)}
        for trial in trials:
            record = record_of(trial, budget)
            if trial.number in repeated or record.role == PRIOR or record.status is not TrialStatus.INTERRUPTED:
                continue
            attempts = [record_of(trials[number], budget) for number in [*_attempts_before(trial), trial.number]]
            # A worker that dies again and again is the fault of the settings; a run that is killed or parked is not.
            if sum(not attempt.excused for attempt in attempts) <= self.study.spec.limits.retries:
                self._repeat(trial)
                log_event(self.run, "requeued", f"trial {trial.number} was interrupted; its settings are queued again")

    def enqueue(self, params: Mapping[str, Any], **attributes: Any) -> None:
        """Queues settings, unless a trial of the same settings and attributes is there already.

        Args:
            params: Settings by dotted path.
            attributes: What else identifies the trial (role, arm, stage, seed).
        """
        wanted = {**attributes, "params": dict(params)}
        for trial in self.optuna_study.get_trials(deepcopy=False):
            if all(trial.user_attrs.get(key) == value for key, value in wanted.items()):
                return
        fixed = dict(params) if self.kind == "trials" else {}
        self.optuna_study.enqueue_trial(fixed, user_attrs=wanted)


def _tell_optuna(study: optuna.Study, number: int, result: TrialResult) -> None:
    from optuna.trial import TrialState

    try:
        if result.status is TrialStatus.FINISHED:
            study.tell(number, values(result, len(study.directions)))
        else:
            study.tell(number, state=TrialState.PRUNED if result.status.teaches else TrialState.FAIL)
    except RuntimeError as error:
        # A grid that is used up calls Study.stop, which exists only inside optimize(); the trial is told by then.
        if "Study.stop" not in str(error):
            raise
        StudyAttributes(study).exhausted = True


def _attempts_before(trial: optuna.trial.FrozenTrial) -> list[int]:
    """Returns the numbers of the interrupted trials that a trial repeats, oldest first."""
    return list(trial.system_attrs.get("retry_history", []))


def _as_new(trial: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
    """Returns a copy of a trial without what came of it, for a retry that keeps its settings and its role."""
    import copy

    fresh = copy.deepcopy(trial)
    stored = TrialAttributes
    came_of_it = [part.name for part in (stored.result, stored.curve, stored.audited_at, stored.stopped_at)]
    fresh.user_attrs = {key: value for key, value in trial.user_attrs.items() if key not in came_of_it}
    return fresh


def hardware_overrides(study: Study, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the hardware decides in each config, less what the study file sets itself.

    Args:
        study: The study.
        overrides: `HardwareProfile.overrides()`, by dotted path.
    """
    free = {path: value for path, value in overrides.items() if path not in study.explicit}
    return present(study.spec.base, free)
