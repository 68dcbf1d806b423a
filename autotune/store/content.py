"""Whether what a study's SQLite database holds is whole: damage of its content, where SQLite itself finds none."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from autotune.core.attributes import PRIOR, Snapshot, StudyAttributes, TrialAttributes
from autotune.core.records import TrialStatus
from autotune.study.spec import StudySpec

_TABLES = (
    "studies",
    "study_directions",
    "study_system_attributes",
    "study_user_attributes",
    "trials",
    "trial_intermediate_values",
    "trial_params",
    "trial_system_attributes",
    "trial_user_attributes",
    "trial_values",
)
"""Optuna's tables that a study needs; its others say which version made them, and who lives."""


def describe_damage(connection: sqlite3.Connection) -> str:
    """Return what is missing from, or wrong in, what an Optuna database holds.

    Args:
        connection: A connection to a database whose form is sound.

    Returns:
        Half a sentence, "" if nothing is wrong or if the database is new.
    """
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not names & set(_TABLES):
        return ""
    # Where there are some tables and no study, a process was killed as it made them; Optuna makes the others.
    if "studies" not in names or not _number(connection, "SELECT COUNT(*) FROM studies"):
        has_trials = "trials" in names and _number(connection, "SELECT COUNT(*) FROM trials")
        return "its studies are missing" if has_trials else ""

    missing = [name for name in _TABLES if name not in names]
    if missing:
        return f"table {missing[0]} is missing"
    if "version_info" in names and not _number(connection, "SELECT COUNT(*) FROM version_info"):
        return "the row of version_info is missing"

    orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
    if orphan is not None:
        return f"rows of {orphan[2]} are missing, to which those of {orphan[0]} belong"

    try:
        return _study_damage(connection) or _trial_damage(connection)
    except ValueError as error:
        return str(error)


def _number(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _attributes(connection: sqlite3.Connection, of: str) -> dict[int, dict[str, Any]]:
    """Return the user attributes of all studies, or of all trials, by their id.

    Raises:
        ValueError: If one of them is no JSON.
    """
    stored: dict[int, dict[str, Any]] = defaultdict(dict)
    for owner, key, text in connection.execute(f"SELECT {of}_id, key, value_json FROM {of}_user_attributes"):
        stored[owner][key] = _parsed(text, of, key)

    # Of Optuna's own it is enough that they can be read.
    for _, key, text in connection.execute(f"SELECT {of}_id, key, value_json FROM {of}_system_attributes"):
        _parsed(text, of, key)

    return stored


def _parsed(text: object, of: str, key: str) -> Any:
    try:
        return json.loads(text)  # type: ignore[arg-type]
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"attribute {key} of a {of} is no JSON") from None


def _study_damage(connection: sqlite3.Connection) -> str:
    stored = _attributes(connection, "study")
    searches = 0
    for study_id, name in connection.execute("SELECT study_id, study_name FROM studies").fetchall():
        directions = connection.execute("SELECT COUNT(*) FROM study_directions WHERE study_id = ?", (study_id,))
        if not directions.fetchone()[0]:
            return f"the direction of {name} is missing"

        attributes = StudyAttributes(Snapshot(stored[study_id]))
        wrong = attributes.unreadable()
        if wrong:
            return f"attribute {wrong} of {name} cannot be read"
        if attributes.spec is not None:
            searches += 1
            if not _is_spec(attributes.spec):
                return f"the settings of {name} cannot be read"

    ours = _number(connection, "SELECT COUNT(*) FROM trial_user_attributes WHERE key IN ('role', 'seed', 'result')")
    return "the settings of its study are missing" if ours and not searches else ""


@dataclass(frozen=True)
class _Holders:
    """Which studies and trials have rows of what.

    Args:
        searches: Studies with settings of ours; finals and longer runs keep theirs as attributes.
        values: Trials with a final value.
        params: Trials with settings that a sampler proposed.
        enqueued: Trials that were queued beforehand.
    """

    searches: set[int]
    values: set[int]
    params: set[int]
    enqueued: set[int]

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> _Holders:
        """Read them from a database."""

        def ids(query: str) -> set[int]:
            return {number for (number,) in connection.execute(query)}

        return cls(
            searches=ids("SELECT study_id FROM study_user_attributes WHERE key = 'spec'"),
            values=ids("SELECT trial_id FROM trial_values"),
            params=ids("SELECT trial_id FROM trial_params"),
            enqueued=ids("SELECT trial_id FROM trial_system_attributes WHERE key = 'fixed_params'"),
        )


def _is_spec(stored: Mapping[str, Any]) -> bool:
    try:
        StudySpec.model_validate(stored)
    except ValidationError:
        return False
    return True


def _trial_damage(connection: sqlite3.Connection) -> str:
    stored = _attributes(connection, "trial")
    holders = _Holders.read(connection)
    expected: dict[int, int] = defaultdict(int)

    rows = connection.execute("SELECT trial_id, study_id, number, state FROM trials ORDER BY study_id, number")
    for trial_id, study_id, number, state in rows.fetchall():
        if number != expected[study_id]:
            return f"trial {expected[study_id]} is missing"
        expected[study_id] += 1

        attributes = TrialAttributes(Snapshot(stored[trial_id]))
        wrong = attributes.unreadable()
        if wrong:
            return f"attribute {wrong} of trial {number} cannot be read"

        missing = _missing(attributes, trial_id, study_id, state, holders)
        if missing:
            return f"the {missing} of trial {number} is missing"

    return ""


def _missing(attributes: TrialAttributes, trial_id: int, study_id: int, state: str, holders: _Holders) -> str:
    """Return what a trial lacks, in a word; "" if it lacks nothing."""
    if state == "COMPLETE" and trial_id not in holders.values:
        return "value"
    was_queued = TrialAttributes.params.name in attributes.holder.user_attrs
    if was_queued and trial_id not in holders.enqueued:
        return "place in the queue"
    if attributes.role == PRIOR:
        return ""

    result = attributes.result
    if result is None:
        return "result" if state in ("COMPLETE", "PRUNED") else ""
    if result.status is not TrialStatus.FINISHED:
        return ""
    has_settings = study_id not in holders.searches or trial_id in holders.params
    return "" if has_settings else "choice of settings"
