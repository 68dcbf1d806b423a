"""The database under a study: its locks, its backup and what is refused."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from pathlib import Path

import optuna
import pytest
from study_case import make_queue, make_study, result

from autotune.core.errors import UserError
from autotune.store.backup import back_up
from autotune.store.database import open_storage
from autotune.store.run_directory import RunDirectory


def statements(storage: optuna.storages.RDBStorage) -> list[str]:
    """Collects what is sent to the database from now on."""
    from sqlalchemy import event

    sent: list[str] = []
    event.listen(storage.engine, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
    return sent


def test_sqlite_writes_ahead_and_takes_the_write_lock_at_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "night")
    storage = open_storage(run)
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
        # A second writer is refused from the first statement on, although nothing has been written yet.
        with contextlib.closing(sqlite3.connect(run.database, timeout=0, isolation_level=None)) as other:
            assert other.execute("SELECT COUNT(*) FROM studies").fetchone() == (0,)
            with pytest.raises(sqlite3.OperationalError, match="database is locked"):
                other.execute("BEGIN IMMEDIATE")
    with contextlib.closing(sqlite3.connect(run.database, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")


def test_optuna_begins_with_the_write_lock(tmp_path: Path) -> None:
    storage = open_storage(RunDirectory(tmp_path / "night"))
    sent = statements(storage)
    optuna.create_study(storage=storage, study_name="x").ask()
    assert "BEGIN IMMEDIATE" in sent


def test_a_busy_database_is_waited_for(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "night")
    storage = open_storage(run)
    blocker = sqlite3.connect(run.database, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.5, lambda: (blocker.execute("COMMIT"), blocker.close()))
    release.start()
    assert optuna.create_study(storage=storage, study_name="x").ask().number == 0
    release.join()


def test_two_processes_draw_no_trial_twice(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "night")
    study = optuna.create_study(storage=open_storage(run), study_name="x")
    for number in range(20):
        study.enqueue_trial({}, user_attrs={"number": number})
    drawn: list[int] = []

    def draw() -> None:
        mine = optuna.load_study(study_name="x", storage=open_storage(run))
        drawn.extend(mine.ask().user_attrs["number"] for _ in range(10))

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(drawn) == list(range(20))


def test_a_backup_is_sound_and_complete(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    assignment = queue.take()
    assert assignment is not None
    queue.tell(assignment.trial, result(), assignment.folder)
    back_up(queue.run)
    copy = RunDirectory(tmp_path / "copy")
    copy.root.mkdir()
    shutil.copy(queue.run.backup, copy.database)
    with contextlib.closing(sqlite3.connect(copy.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    restored = optuna.load_study(study_name="night", storage=open_storage(copy))
    assert [trial.value for trial in restored.trials] == [2.0]
    # The second one counts the trials of the first before it takes its place.
    back_up(queue.run)
    assert not list(queue.run.root.glob("*.tmp*")) + list(queue.run.root.glob("study.backup.db-*"))


def test_without_a_database_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    back_up(RunDirectory(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"no database at all, but text that is long enough to be read as a header" * 99])
@pytest.mark.parametrize("backup", [True, False])
def test_a_damaged_database_is_told_with_the_way_out(tmp_path: Path, damage: bytes, backup: bool) -> None:
    run = RunDirectory(tmp_path / "night")
    open_storage(run).engine.dispose()
    if backup:
        back_up(run)
    for side in run.root.glob("study.db-*"):
        side.unlink()
    run.database.write_bytes(damage)
    with pytest.raises(
        UserError, match="study.db is damaged; " + ("a backup from" if backup else "there is no")
    ) as caught:
        open_storage(run)
    assert caught.value.exit_code == 3
    # Nor does the damage reach the backup.
    before = run.backup.read_bytes() if backup else None
    back_up(run)
    assert (run.backup.read_bytes() if backup else None) == before


def test_the_driver_and_the_kind_of_a_shared_database_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="postgresql://user@host/database"):
        open_storage(RunDirectory(tmp_path), "mysql://host/base")
