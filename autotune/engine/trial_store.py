"""Where a queue's trials are stored: one Optuna study of the run's storage."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autotune.core.attributes import StudyAttributes, TrialAttributes
from autotune.core.objectives import values
from autotune.core.peers import Peer
from autotune.core.records import TrialRecord, TrialResult, TrialStatus
from autotune.core.setups import ALIKE, Device
from autotune.search.searched import present_space, whole_space
from autotune.search.space import SearchSpace
from autotune.search.untried import Tried
from autotune.store.database import exclusive, is_shared
from autotune.store.membership import peers_at_work
from autotune.store.run_directory import RunDirectory
from autotune.store.stored_spec import in_force
from autotune.store.trial_records import KnownRecords
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, TrialState

_LAST_STEP = 2**31 - 1
"""Largest step of a loss that Optuna's tables hold in a PostgreSQL."""


@dataclass(frozen=True)
class Look:
    """What is stored at one moment: whatever is decided together is decided by one of these.

    Args:
        trials: All trials of the Optuna study, by number.
        records: Our records of its own trials, by number.
        attributes: What is stored with the Optuna study.
        device: What this process trains on.
    """

    trials: Sequence[FrozenTrial]
    records: Sequence[TrialRecord]
    attributes: StudyAttributes
    device: Device = ALIKE

    @property
    def waiting(self) -> list[TrialRecord]:
        """Trials that wait for their turn and may have it on this device."""
        waiting = [record for record in self.records if record.status is TrialStatus.WAITING]
        return [record for record in waiting if self.device.is_enough_for(record.needs_bytes)]

    @property
    def has_trial_by_hand(self) -> bool:
        """Whether a trial that a person has added waits for its turn."""
        return any(TrialAttributes(self.trials[record.number]).request for record in self.waiting)


@dataclass(frozen=True)
class TrialStore:
    """The trials of one Optuna study: read, queued, reported and ended.

    Args:
        optuna_study: Where they are stored.
        storage: Its storage.
        run: The run directory.
        study: The study file and trainer.
        peer: The id of this process among those that share the study; "" if none do.
        device: What this process trains on.
    """

    optuna_study: optuna.Study
    storage: RDBStorage
    run: RunDirectory
    study: Study
    peer: str = ""
    device: Device = ALIKE

    @property
    def attributes(self) -> StudyAttributes:
        """What is stored with the Optuna study."""
        return StudyAttributes(self.optuna_study)

    @property
    def space(self) -> SearchSpace:
        """What is searched at present, in ranges that may have been changed."""
        return present_space(self.study.spec.space, self.attributes)

    @property
    def whole_space(self) -> SearchSpace:
        """What was searched at any time."""
        return whole_space(self.study.spec.space, self.attributes)

    @property
    def spec(self) -> StudySpec:
        """What the study file says, with the number of trials that is wanted by now."""
        return in_force(self.study.spec, self.attributes)

    @property
    def has_one_value(self) -> bool:
        """Whether trials are judged by one value; with several, Optuna keeps no curve and prunes nothing."""
        return len(self.optuna_study.directions) == 1

    @property
    def is_shared(self) -> bool:
        """Whether other processes may work at the same study."""
        return is_shared(self.storage)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials of the Optuna study, by number; those that have ended are not read again."""
        return self.optuna_study.get_trials(deepcopy=False)

    def records(self) -> list[TrialRecord]:
        """Return all of its own trials, by number."""
        return self._known.own(self.trials())

    def look(self) -> Look:
        """Return what is stored at present."""
        trials = self.trials()
        return Look(trials, self._known.own(trials), self.attributes.at_present(), self.device)

    @cached_property
    def tried(self) -> Tried:
        """The settings that were tried before."""
        return Tried(self.study.spec.seed)

    @cached_property
    def _known(self) -> KnownRecords:
        return KnownRecords(self.study.spec.budget)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the study's trials meanwhile."""
        with exclusive(self.storage, self.study.spec.name), warnings.catch_warnings():
            # Optuna warns that heartbeats belong to optimize(), and that repeating trials is experimental.
            warnings.simplefilter("ignore")
            yield

    def enqueue(self, identity: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
        """Queue a trial, unless one with the same attributes is there already.

        Args:
            identity: Attributes that identify the trial (params, role, arm, stage, seed).
            fixed: Values that the sampler is not asked for, by dotted path.
        """
        for trial in self.trials():
            if all(trial.user_attrs.get(name) == value for name, value in identity.items()):
                return

        self.optuna_study.enqueue_trial(dict(fixed), user_attrs=dict(identity))

    def ask(self, look: Look) -> optuna.Trial:
        """Start a trial: the first that waits, or a new one; the caller holds the lock.

        Args:
            look: What is stored at present.
        """
        from optuna import Trial
        from optuna.trial import TrialState

        # As Optuna's own call, less those that wait for more memory, and less one more reading of all that
        # runs, to see whether anything waits.
        study = self.optuna_study
        study._thread_local.cached_all_trials = None
        for record in look.waiting:
            trial_id = look.trials[record.number]._trial_id
            if study._storage.set_trial_state_values(trial_id, state=TrialState.RUNNING):
                return Trial(study, trial_id)
        return Trial(study, study._storage.create_new_trial(study._study_id))

    def set_params(
        self, trial: optuna.Trial, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
    ) -> None:
        """Store what a trial trains: all of it, or nothing.

        Args:
            trial: A running trial.
            params: Settings by dotted path.
            distributions: Under which Optuna is told of each.
        """
        from optuna.storages._rdb.storage import _create_scoped_session

        if self.is_shared:
            from autotune.store.postgresql import SharedStorage

            assert isinstance(self.storage, SharedStorage)
            self.storage.set_trial_params(trial._trial_id, params, distributions)
            return

        # Optuna's own call takes a transaction for each.
        with _create_scoped_session(self.storage.scoped_session) as session:
            for path, value in params.items():
                internal = distributions[path].to_internal_repr(value)
                self.storage._set_trial_param_without_commit(
                    session, trial._trial_id, path, internal, distributions[path]
                )

    def report(self, trial: optuna.Trial, place: int, loss: float) -> bool:
        """Store an intermediate loss.

        Args:
            trial: A running trial.
            place: Where it stands: tokens of the baseline, or the number of seeds that are trained.
            loss: Held-out loss, nats per token.

        Returns:
            False if the trial is no longer ours: this process gave no sign of life for so long (a suspended
            machine, a lost network) that a peer ended the trial.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            if self.has_one_value and not (self.is_shared and place > _LAST_STEP):
                trial.report(loss, step=place)
            else:
                # Of several values Optuna refuses a curve, and a pruned trial that has one in its storage would crash
                # TPE.
                attributes = TrialAttributes(trial)
                attributes.curve = {**attributes.curve, place: loss}
        except UpdateFinishedTrialError:
            return False
        return True

    def finish(self, trial: optuna.Trial, result: TrialResult) -> bool:
        """Store a trial's result, then tell Optuna how it ended.

        Args:
            trial: A running trial.
            result: How it ended.

        Returns:
            False if a peer has ended the trial meanwhile.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            TrialAttributes(trial).result = result
            self.tell_optuna(trial.number, result)
        except UpdateFinishedTrialError:
            # A first attempt may have been stored as its connection was lost.
            return TrialAttributes(self.storage.get_trial(trial._trial_id)).result == result
        return True

    def may_be_trained(self, record: TrialRecord, only_on: str) -> bool:
        """Return whether any process at work, this one included, may train what waits.

        Args:
            record: A trial that waits.
            only_on: Class of the devices that may train it; "" for any.
        """
        if only_on in ("", self.device.name) and self.device.is_enough_for(record.needs_bytes):
            return True
        others = [Device(peer.device_class, peer.memory_bytes) for peer in self._at_work()]
        return any(only_on in ("", other.name) and other.is_enough_for(record.needs_bytes) for other in others)

    def has_larger_device(self) -> bool:
        """Return whether another process at work has more memory to train in than this one."""
        return bool(self.device.name) and any(peer.memory_bytes > self.device.memory_bytes for peer in self._at_work())

    def _at_work(self) -> tuple[Peer, ...]:
        return peers_at_work(self.storage, self.study.spec.name)

    def pass_over(self, trial: optuna.Trial) -> None:
        """End a trial that has trained nothing, so that it counts nowhere; the caller holds the lock.

        Args:
            trial: A running trial whose settings were tried before.
        """
        from optuna.trial import TrialState

        TrialAttributes(trial).passed_over = True
        self._tell(trial.number, state=TrialState.FAIL)

    def tell_optuna(self, number: int, result: TrialResult) -> None:
        """Tell Optuna how a trial ended: a fault of the machine as failed, all else so that it teaches.

        Optuna's samplers ignore failed trials, so a divergence or a lack of memory told as a failure would be proposed
        again and again. Told as pruned, with its last finite loss, it teaches.

        Args:
            number: The trial's number.
            result: How it ended, already stored.
        """
        from optuna.trial import TrialState

        if result.status is TrialStatus.FINISHED:
            self._tell(number, values(result, len(self.optuna_study.directions)))
            return

        is_told = result.status.teaches
        if result.status is TrialStatus.STOPPED:
            # One that a person stopped before it said anything of its settings would count as the worst of all.
            is_told = bool(self.trials()[number].intermediate_values)
        self._tell(number, state=TrialState.PRUNED if is_told else TrialState.FAIL)

    def _tell(self, number: int, values: Sequence[float] | None = None, state: TrialState | None = None) -> None:
        try:
            self.optuna_study.tell(number, values, state)
        except RuntimeError as error:
            # A grid that is used up calls Study.stop, which exists only inside optimize(); the trial is told by then.
            if "Study.stop" not in str(error):
                raise
            self.attributes.exhausted = True
