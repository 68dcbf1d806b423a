"""Damage of a database's content that SQLite does not see, and databases that are locked or cannot be written."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from study_case import make_queue, make_study, result

from autotune.core.errors import UserError
from autotune.store import sqlite_file
from autotune.store.backup import back_up
from autotune.store.database import open_storage
from autotune.store.run_directory import RunDirectory
from autotune.store.sqlite_file import reader_of

DAMAGES = [
    ("DELETE FROM studies", "its studies are missing"),
    ("DELETE FROM study_directions", "the direction of night is missing"),
    ("DELETE FROM study_user_attributes", "the settings of its study are missing"),
    ("DELETE FROM trials WHERE number = 0", "rows of trials are missing"),
    ("DELETE FROM trial_user_attributes", "the result of trial 0 is missing"),
    ("DELETE FROM trial_params", "the choice of settings of trial 0 is missing"),
    ("DELETE FROM trial_values", "the value of trial 0 is missing"),
    ("DELETE FROM version_info", "the row of version_info is missing"),
    ("DROP TABLE trial_params", "table trial_params is missing"),
    ("UPDATE trials SET number = 5", "trial 0 is missing"),
    ("UPDATE trials SET state = 'x'", "LookupError"),
    ("UPDATE trial_params SET distribution_json = '{}'", "KeyError"),
    ("UPDATE trial_user_attributes SET value_json = 'garbage'", "of a trial is no JSON"),
    ("UPDATE trial_user_attributes SET value_json = '17' WHERE key = 'result'", "attribute result of trial 0"),
    ("UPDATE trial_user_attributes SET value_json = replace(value_json, '1000', '\"x\"')", "attribute result"),
    ("UPDATE study_user_attributes SET value_json = '[]' WHERE key = 'spec'", "the settings of night cannot be read"),
]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run directory whose database holds a finished trial and one that waits."""
    queue = make_queue(tmp_path, make_study(tmp_path))
    queue.enqueue({"lr": 0.01}, role="search")
    queue.enqueue({"lr": 0.02}, role="search")
    assignment = queue.take()
    assert assignment is not None
    queue.tell(assignment.trial, result(), assignment.folder)
    queue.storage.engine.dispose()
    return queue.run


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_damaged_content_is_refused_and_not_backed_up(run: RunDirectory, damage: str, words: str) -> None:
    back_up(run)
    before = run.backup.read_bytes()
    with contextlib.closing(sqlite3.connect(run.database)) as connection, connection:
        connection.execute(damage)
    with pytest.raises(UserError, match=r"study\.db is damaged; a backup from") as caught:
        open_storage(run)
    assert words in str(caught.value) and caught.value.exit_code == 3
    if "Error" not in words:  # that which only Optuna sees
        back_up(run)
        assert run.backup.read_bytes() == before


def test_long_lock_at_the_start_is_told(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.2)
    with contextlib.closing(sqlite3.connect(run.database, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"has been locked by another program .*: end it and run again") as caught:
            open_storage(run)
    assert caught.value.exit_code == 3


def test_database_is_read_without_its_journal_being_written(run: RunDirectory, tmp_path: Path) -> None:
    """A copy of a database in the middle of its work has what the journal alone holds."""
    with contextlib.closing(sqlite3.connect(run.database, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE extra (x)")
        copies = tmp_path / "copies"
        copies.mkdir()
        for ending in ("", "-wal"):
            (copies / f"study.db{ending}").write_bytes(run.database.with_name(f"study.db{ending}").read_bytes())
    copies.chmod(0o555)
    with reader_of(copies / "study.db") as connect, contextlib.closing(connect()) as connection:
        assert connection.execute("SELECT COUNT(*) FROM extra").fetchone() == (0,)
    copies.chmod(0o755)


def test_a_trial_that_ends_while_its_database_is_looked_through_is_no_damage(run: RunDirectory) -> None:
    """What is asked first and what is asked last are of one moment."""
    with (
        contextlib.closing(sqlite_file.connect_to_write(run.database)) as writer,
        contextlib.closing(sqlite_file.connect_to_write(run.database)) as reader,
    ):

        def end_a_trial(statement: str) -> None:
            if statement.startswith("SELECT trial_id, study_id, number, state"):
                writer.execute("UPDATE trials SET state = 'COMPLETE' WHERE number = 1")

        reader.set_trace_callback(end_a_trial)
        assert sqlite_file.damage_of(reader) == ""
        reader.set_trace_callback(None)
        assert sqlite_file.damage_of(reader) == "the value of trial 1 is missing"
