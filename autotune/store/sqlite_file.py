"""A study's SQLite file: connections that write, connections that only read, and whether it is sound.

SQLite in WAL mode survives a kill at any moment. It does not survive a damaged disk; see `store/backup.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from autotune.core.disk_faults import explain_os_error
from autotune.core.errors import UserError
from autotune.store.content import describe_damage
from autotune.store.run_directory import RunDirectory

BUSY_TIMEOUT_S = 60
"""Seconds that a writer waits for another process that holds the database, a dashboard for example."""

Connect = Callable[[], sqlite3.Connection]


def connect_to_write(database: Path) -> sqlite3.Connection:
    """Connect to a database that this process may write; it is made if it is missing."""
    # isolation_level None leaves transactions to SQLAlchemy, whose "begin" takes the write lock at once:
    # Optuna reads before it writes, and two readers that both want to write lose updates.
    connection = sqlite3.connect(database, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def reader_of(database: Path, has_locks: bool = True) -> Iterator[Connect]:
    """Find a way to read a database whose folder cannot be written, has no locks or is full.

    Args:
        database: The file.
        has_locks: Whether its disk has locks.

    Yields:
        What connects to it: to the file itself, or to a copy that is removed when the block is left.
    """
    # With the journal's files in place SQLite reads it as it is, also while another process writes.
    direct = _uri_connector(database, "mode=ro")
    if has_locks and _can_read(direct):
        yield direct
        return

    # Without a journal the file is all there is, and no lock is needed as nobody writes it.
    journal = _beside(database, "-wal")
    if not journal.exists() or journal.stat().st_size == 0:
        yield _uri_connector(database, "immutable=1")
        return

    with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
        copy = Path(folder) / database.name
        shutil.copyfile(database, copy)
        shutil.copyfile(journal, _beside(copy, "-wal"))
        yield lambda: connect_to_write(copy)


def _uri_connector(database: Path, how: str) -> Connect:
    address = f"{database.absolute().as_uri()}?{how}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)

    return connect


def _can_read(connect: Connect) -> bool:
    try:
        with contextlib.closing(connect()) as connection:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        return False
    except sqlite3.DatabaseError:
        return True  # it can be read, and what is read is damaged
    return True


def _beside(database: Path, ending: str) -> Path:
    return database.with_name(database.name + ending)


# --- soundness ---------------------------------------------------------------------------------------------


def require_there(run: RunDirectory, is_read: bool = False) -> None:
    """Refuse a database that is lost, or that lies elsewhere.

    Of a lost one, the study would silently start from zero, into the files of its former trials.

    Args:
        run: The run directory.
        is_read: Whether a study must be there, since it is only read.

    Raises:
        UserError: With exit code 3.
    """
    if run.database.is_symlink():
        raise UserError(
            f"{run.database} is a link to {os.readlink(run.database)}, whose content is not this folder's to change: "
            "put the file itself there",
            3,
        )
    if _has_content(run.database):
        return
    if run.backup.exists() or run.has_trial_files() or is_read:
        raise UserError(f"{run.database} is missing; {_rescue(run)}", 3)


def _has_content(database: Path) -> bool:
    try:
        return database.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise explain_os_error(error) from None


def require_sound(run: RunDirectory, connect: Connect) -> None:
    """Refuse a database that is damaged, in its form or in its content.

    Args:
        run: The run directory.
        connect: What connects to its database.

    Raises:
        UserError: With exit code 3; it says what can be done.
    """
    try:
        with contextlib.closing(connect()) as connection:
            damage = damage_of(connection)
    except sqlite3.OperationalError as error:
        # It is locked or unreadable, which says nothing about its content.
        raise UserError(_cannot_be_read(run.database, error), 3) from None
    except sqlite3.DatabaseError as error:
        damage = str(error)

    if not damage and not _has_studies(connect) and run.has_trial_files():
        damage = "it holds no study, though there are files of trials"
    if damage:
        raise UserError(f"{run.database} is damaged; {_rescue(run)} ({damage})", 3)


@contextlib.contextmanager
def explain_damage(run: RunDirectory) -> Iterator[None]:
    """Tell what Optuna, or a type of ours, cannot read from a sound file as the damage that it is.

    Args:
        run: The run directory.

    Raises:
        UserError: With exit code 3; it says what can be done.
    """
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, AssertionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{run.database} is damaged; {_rescue(run)} ({reason})", 3) from error


def damage_of(connection: sqlite3.Connection) -> str:
    """Return what is wrong with a database, "" if nothing is."""
    # In one transaction: while a study runs, what is asked first must not be older than what is asked last.
    connection.execute("BEGIN")
    try:
        answer = connection.execute("PRAGMA quick_check").fetchone()
        if answer != ("ok",):
            return "SQLite's quick_check fails"
        return describe_damage(connection)
    finally:
        connection.execute("ROLLBACK")


def _has_studies(connect: Connect) -> bool:
    with contextlib.closing(connect()) as connection:
        try:
            return bool(connection.execute("SELECT COUNT(*) FROM studies").fetchone()[0])
        except sqlite3.OperationalError:
            return False


def _cannot_be_read(database: Path, error: sqlite3.Error) -> str:
    if "locked" in str(error):
        return (
            f"{database} has been locked by another program for {BUSY_TIMEOUT_S:.0f} s (a dashboard, a backup or an "
            "editor perhaps): end it and run again"
        )
    return f"{database} cannot be read: {error}; see whether another program uses it, and whether you may read it"


def _rescue(run: RunDirectory) -> str:
    """Return what a person can do about a lost database."""
    if not run.backup.exists():
        return "there is no backup; move the folder away and start again"

    when = datetime.fromtimestamp(run.backup.stat().st_mtime).strftime("%H:%M")
    return (
        f"a backup from {when} is at {run.backup}: copy it to {run.database}, "
        f"delete {run.database.name}-wal and -shm, and run again"
    )
