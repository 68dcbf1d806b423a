"""What a trial's every step stores and reads in a PostgreSQL: one statement each, where Optuna takes two to seven.

Optuna's storage maps rows to objects, which computes for most of a millisecond a statement. What is stored is the same.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import NOT_FOUND_MSG, TrialIntermediateValueModel, TrialValueModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Executable, TextClause

_TRIALS = """
SELECT trial_id, number, state::text, datetime_start, datetime_complete,
    (SELECT json_agg(json_build_array(value::text, value_type) ORDER BY objective)
        FROM trial_values WHERE trial_id = trials.trial_id),
    (SELECT json_agg(json_build_array(param_name, param_value::text, distribution_json) ORDER BY param_id)
        FROM trial_params WHERE trial_id = trials.trial_id),
    (SELECT json_agg(json_build_array(key, value_json) ORDER BY trial_user_attribute_id)
        FROM trial_user_attributes WHERE trial_id = trials.trial_id),
    (SELECT json_agg(json_build_array(key, value_json) ORDER BY trial_system_attribute_id)
        FROM trial_system_attributes WHERE trial_id = trials.trial_id),
    (SELECT json_agg(json_build_array(step, intermediate_value::text, intermediate_value_type)
        ORDER BY trial_intermediate_value_id)
        FROM trial_intermediate_values WHERE trial_id = trials.trial_id)
FROM trials
"""
_OF_STUDY = text(_TRIALS + "WHERE study_id = :study AND trial_id > :last ORDER BY trial_id")
_OF_STUDY_OR_NAMED = text(
    _TRIALS + "WHERE study_id = :study AND (trial_id > :last OR trial_id = ANY(:ids)) ORDER BY trial_id"
)
_ONE = text(_TRIALS + "WHERE trial_id = :trial")

_IF_UNFINISHED = "FROM trials WHERE trial_id = :trial AND state IN ('RUNNING', 'WAITING')"
_ADD_LOSS = text(
    "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
    f"SELECT trial_id, :step, :value, CAST(:type AS trialintermediatevaluetype) {_IF_UNFINISHED} "
    "ON CONFLICT (trial_id, step) DO UPDATE SET intermediate_value = excluded.intermediate_value, "
    "intermediate_value_type = excluded.intermediate_value_type"
)
_SET_ATTRIBUTE = text(
    f"INSERT INTO trial_user_attributes (trial_id, key, value_json) SELECT trial_id, :key, :value {_IF_UNFINISHED} "
    "ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json"
)
_ADD_SETTING = text(
    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
    f"SELECT trial_id, :name, :value, :distribution {_IF_UNFINISHED}"
)
_HOLD_STUDY = text("SELECT study_id FROM studies WHERE study_id = :study FOR UPDATE")
_BEGIN = text(
    "INSERT INTO trials (number, study_id, state, datetime_start) "
    "SELECT count(*), :study, 'RUNNING', :start FROM trials WHERE study_id = :study RETURNING trial_id, number"
)
_END = text(
    "UPDATE trials SET state = CAST(:state AS trialstate), datetime_complete = :end "
    "WHERE trial_id = :trial AND state IN ('RUNNING', 'WAITING')"
)
_SET_VALUE = text(
    "INSERT INTO trial_values (trial_id, objective, value, value_type) "
    "VALUES (:trial, :objective, :value, CAST(:type AS trialvaluetype)) ON CONFLICT (trial_id, objective) "
    "DO UPDATE SET value = excluded.value, value_type = excluded.value_type"
)
_BEAT = text(
    "INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES (:trial, CURRENT_TIMESTAMP AT TIME ZONE 'UTC') "
    "ON CONFLICT (trial_id) DO UPDATE SET heartbeat = excluded.heartbeat"
)
_STUDY_ATTRIBUTES = text(
    "SELECT key, value_json FROM studies LEFT JOIN study_user_attributes USING (study_id) WHERE study_id = :study"
)
# In UTC: the column knows no zone, and that of a session depends on server, role and machine, and may change at night.
_STALE = text(
    "SELECT trial_id FROM trials JOIN trial_heartbeats USING (trial_id) WHERE study_id = :study AND state = 'RUNNING' "
    "AND heartbeat < CURRENT_TIMESTAMP AT TIME ZONE 'UTC' - make_interval(secs => :grace) ORDER BY trial_id"
)
_SILENT = text(
    "SELECT trials.trial_id FROM trials LEFT JOIN trial_heartbeats USING (trial_id) "
    "WHERE study_id = :study AND state = 'RUNNING' AND trial_heartbeats.trial_id IS NULL"
)


class TrialRows(RDBStorage):
    """Optuna's storage in a PostgreSQL, with statements of our own for what a trial does often.

    All of them go through its session, and so through the connection of the lock that a thread holds.
    """

    def query(self, statement: Executable, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Return the rows that a statement finds.

        Args:
            statement: A query.
            values: What it names.
        """
        with _create_scoped_session(self.scoped_session) as session:
            return session.connection().execute(statement, dict(values or {})).all()

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See optuna.storages.BaseStorage."""
        rows = self.query(_ONE, {"trial": trial_id})
        if not rows:
            raise KeyError(NOT_FOUND_MSG)
        return _trial(rows[0])

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        values = {"study": study_id, "last": trial_id_greater_than, "ids": list(included_trial_ids)}
        trials = map(_trial, self.query(_OF_STUDY_OR_NAMED if included_trial_ids else _OF_STUDY, values))
        return [trial for trial in trials if states is None or trial.state in states]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See optuna.storages.BaseStorage."""
        rows = self.query(_STUDY_ATTRIBUTES, {"study": study_id})
        if not rows:
            raise KeyError(NOT_FOUND_MSG)
        return {key: json.loads(value) for key, value in rows if key is not None}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See optuna.storages.BaseStorage."""
        self._store(trial_id, _SET_ATTRIBUTE, [{"key": key, "value": json.dumps(value)}])

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """See optuna.storages.BaseStorage."""
        stored, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(intermediate_value)
        self._store(trial_id, _ADD_LOSS, [{"step": step, "value": stored, "type": kind.name}])

    def set_trial_params(
        self, trial_id: int, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
    ) -> None:
        """Store the settings of a trial: all of them, or nothing.

        Args:
            trial_id: Optuna's id of it.
            params: Settings by dotted path.
            distributions: Under which Optuna is told of each.

        Raises:
            UpdateFinishedTrialError: If it has ended.
        """
        rows = []
        for path, value in params.items():
            distribution = distributions[path]
            stored = distribution.to_internal_repr(value)
            rows.append({"name": path, "value": stored, "distribution": distribution_to_json(distribution)})
        if rows:
            self._store(trial_id, _ADD_SETTING, rows)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        if template_trial is not None:
            return super()._create_new_trial(study_id, template_trial)

        start = _stored_now()
        with _create_scoped_session(self.scoped_session) as session:
            connection = session.connection()
            # Its number is how many there are, so one begins at a time.
            if connection.execute(_HOLD_STUDY, {"study": study_id}).scalar() is None:
                raise KeyError(NOT_FOUND_MSG)
            trial_id, number = connection.execute(_BEGIN, {"study": study_id, "start": start}).one()
        return _trial((trial_id, number, TrialState.RUNNING.name, start, None, (), (), (), (), ()))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See optuna.storages.BaseStorage."""
        if not state.is_finished():
            return super().set_trial_state_values(trial_id, state, values)

        rows = []
        for objective, value in enumerate(values or ()):
            stored, kind = TrialValueModel.value_to_stored_repr(value)
            rows.append({"trial": trial_id, "objective": objective, "value": stored, "type": kind.name})

        # The end comes first: it holds the trial until all is stored.
        self._store(trial_id, _END, [{"state": state.name, "end": _stored_now()}], rows)
        return True

    def record_heartbeat(self, trial_id: int) -> None:
        """See optuna.storages.BaseStorage."""
        with _create_scoped_session(self.scoped_session) as session:
            session.execute(_BEAT, {"trial": trial_id})

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        return [row[0] for row in self.query(_STALE, {"study": study_id, "grace": self.grace_period})]

    def silent_trial_ids(self, study_id: int) -> list[int]:
        """Return the ids of a study's running trials without any sign of life.

        Args:
            study_id: Optuna's id of the study.
        """
        return [row[0] for row in self.query(_SILENT, {"study": study_id})]

    def _store(
        self,
        trial_id: int,
        statement: TextClause,
        rows: Sequence[Mapping[str, Any]],
        values: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Change an unfinished trial.

        Args:
            trial_id: Optuna's id of it.
            statement: Changes nothing of one that has ended.
            rows: What it names, once for each time that it is made.
            values: The trial's final values, to be stored with that.
        """
        named = [{"trial": trial_id, **row} for row in rows]
        with _create_scoped_session(self.scoped_session) as session:
            connection = session.connection()
            is_refused = connection.execute(statement, named).rowcount < len(named)
            if is_refused:
                session.rollback()
            elif values:
                connection.execute(_SET_VALUE, values)

        if is_refused:
            self.check_trial_is_updatable(trial_id, self.get_trial(trial_id).state)


def _trial(row: Any) -> FrozenTrial:
    trial_id, number, state, start, complete, values, params, attributes, system_attributes, losses = row
    distributions = {name: _distribution(shape) for name, _, shape in params or ()}
    finals = [TrialValueModel.stored_repr_to_value(_number(value), _VALUE_TYPES[kind]) for value, kind in values or ()]

    return FrozenTrial(
        number=number,
        state=TrialState[state],
        value=None,
        values=finals or None,
        datetime_start=_local(start),
        datetime_complete=_local(complete),
        params={name: distributions[name].to_external_repr(float(value)) for name, value, _ in params or ()},
        distributions=distributions,
        user_attrs={key: json.loads(value) for key, value in attributes or ()},
        system_attrs={key: json.loads(value) for key, value in system_attributes or ()},
        intermediate_values={
            step: TrialIntermediateValueModel.stored_repr_to_intermediate_value(_number(value), _LOSS_TYPES[kind])
            for step, value, kind in losses or ()
        },
        trial_id=trial_id,
    )


def _stored_now() -> datetime:
    """Return the present moment as Optuna stores it."""
    return datetime.now(UTC).replace(tzinfo=None)


def _number(stored: str | None) -> float | None:
    """Return a number; as one of JSON's own, 2.0 would come back as 2."""
    return None if stored is None else float(stored)


def _local(stored: datetime | None) -> datetime | None:
    """Return a moment in local time, as Optuna has it; it stores them as UTC."""
    return stored and stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


_VALUE_TYPES = TrialValueModel.TrialValueType.__members__
_LOSS_TYPES = TrialIntermediateValueModel.TrialIntermediateValueType.__members__


@lru_cache(maxsize=1_000)
def _distribution(shape: str) -> BaseDistribution:
    """Return a distribution from what is stored; all trials that have it share it, as none changes."""
    return json_to_distribution(shape)
