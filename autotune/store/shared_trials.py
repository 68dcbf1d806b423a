"""Trials of a shared database, of which only those are read again that have changed since they were read last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from sqlalchemy import text

from autotune.store.absence import again_if_cut_off

if TYPE_CHECKING:
    from collections.abc import Container

    from optuna.trial import FrozenTrial, TrialState

    from autotune.store.trial_rows import TrialRows

_SIGNS = text("""
SELECT trial_id, state,
    (SELECT count(*) FROM trial_params WHERE trial_id = trials.trial_id),
    (SELECT count(*) FROM trial_intermediate_values WHERE trial_id = trials.trial_id),
    (SELECT sum(hashtext(key || value_json)) FROM trial_user_attributes WHERE trial_id = trials.trial_id),
    (SELECT sum(hashtext(key || value_json)) FROM trial_system_attributes WHERE trial_id = trials.trial_id)
FROM trials WHERE study_id = :study AND (trial_id > :last OR trial_id = ANY(:unfinished))
""")
"""What tells a changed trial: parameters and losses are only added, attributes may be written again."""
_BEYOND_ALL = 2**31 - 1
"""No trial has a larger id, in PostgreSQL's type of whole numbers."""

_Sign = tuple[object, ...]


class ChangedTrials(_CachedStorage):
    """Optuna's cache of what has ended, which would build every running trial anew at each look.

    That takes half a millisecond for each, so that a look takes the longer the more peers there are.

    Args:
        backend: A PostgreSQL.
    """

    def __init__(self, backend: TrialRows) -> None:
        super().__init__(backend)
        self._rows = backend
        self._signs: dict[int, _Sign] = {}
        """Of trials that have not ended, by id."""

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See optuna.storages.BaseStorage; the same as Optuna's own, which computes something for each trial."""
        if states is not None or deepcopy:
            return super().get_all_trials(study_id, deepcopy, states)

        self._read_trials_from_remote_storage(study_id)
        with self._lock:
            trials = self._studies[study_id].trials
            return list(map(trials.__getitem__, sorted(trials)))

    @again_if_cut_off
    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        with self._lock:
            study = self._studies.setdefault(study_id, _StudyInfo())
            signs = self._read_signs(study_id, study)
            changed = {trial_id for trial_id, sign in signs.items() if sign != self._signs.get(trial_id)}
            if not changed:
                return

            is_first = study.last_finished_trial_id < 0 and not study.unfinished_trial_ids
            trials = self._backend._get_trials(
                study_id,
                states=None,
                included_trial_ids=set() if is_first else changed,
                trial_id_greater_than=-1 if is_first else _BEYOND_ALL,
            )
            self._add_trials_to_cache(study_id, trials)
            # One that has changed between the two readings is read again at the next look.
            for trial in trials:
                trial_id = trial._trial_id
                if trial.state.is_finished():
                    study.last_finished_trial_id = max(study.last_finished_trial_id, trial_id)
                    study.unfinished_trial_ids.discard(trial_id)
                    self._signs.pop(trial_id, None)
                elif trial_id in signs:
                    study.unfinished_trial_ids.add(trial_id)
                    self._signs[trial_id] = signs[trial_id]

    def _read_signs(self, study_id: int, study: _StudyInfo) -> dict[int, _Sign]:
        """Return a sign for each trial that may have changed, by id: it is another once the trial has."""
        unfinished = list(study.unfinished_trial_ids)
        known = {"study": study_id, "last": study.last_finished_trial_id, "unfinished": unfinished}
        return {row[0]: tuple(row[1:]) for row in self._rows.query(_SIGNS, known)}
