"""The database under a study: SQLite in its run directory, or a PostgreSQL that several machines share.

SQLite in WAL mode survives a kill at any moment. It does not survive a damaged disk, so there is a backup. Processes
that share a PostgreSQL take turns through its advisory locks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.core.errors import UserError
from autotune.store.run_directory import RunDirectory

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import Engine

MISSED_HEARTBEATS = 3
"""Heartbeats without a sign of life after which a peer counts as dead."""
# Seconds that a writer waits for another process that holds the database, a dashboard for example.
_BUSY_TIMEOUT_S = 60
_AS_URL = 'write it as "postgresql://user@host/database"'
_AS_PERCENT = "write @ : / ? # in a password as %40 %3A %2F %3F %23, or give it in PGPASSWORD or ~/.pgpass"


def open_storage(run: RunDirectory, spec_storage: str = "", heartbeat_s: int = 20) -> RDBStorage:
    """Open the Optuna storage of a study: SQLite in the run directory, or a shared database.

    Args:
        run: The study's run directory.
        spec_storage: URL of the shared database, or "".
        heartbeat_s: Seconds between signs of life, for a shared database.

    Raises:
        UserError: If the database is damaged, cannot be reached or lacks its driver.
    """
    import optuna

    # Optuna announces each study it creates on stderr; the console has its own lines.
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls heartbeats experimental on each use
        if spec_storage:
            return _open_shared(spec_storage, heartbeat_s)
        return _open_sqlite(run)


def is_shared(storage: RDBStorage) -> bool:
    """Return whether several processes may work on the storage at once."""
    return storage.engine.dialect.name != "sqlite"


def _open_sqlite(run: RunDirectory) -> RDBStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy import event

    run.root.mkdir(parents=True, exist_ok=True)
    _require_sound(run)

    def connect() -> sqlite3.Connection:
        # isolation_level None leaves transactions to SQLAlchemy, whose "begin" below takes the write lock
        # at once: Optuna reads before it writes, and two readers that both want to write lose updates.
        connection = sqlite3.connect(
            run.database, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )

        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

        return connection

    storage = RDBStorage(f"sqlite:///{run.database}", engine_kwargs={"creator": connect})
    event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def _require_sound(run: RunDirectory) -> None:
    """Refuse a damaged database, and a missing or empty one if there is a backup: the study would start from zero."""
    has_content = run.database.exists() and run.database.stat().st_size > 0

    if not has_content and run.backup.exists():
        raise UserError(f"{run.database} is missing; {_rescue(run)}", 3)
    if has_content and not _is_sound(run.database):
        raise UserError(f"{run.database} is damaged; {_rescue(run)}", 3)


def _rescue(run: RunDirectory) -> str:
    """Return what a person can do about a lost database."""
    if not run.backup.exists():
        return "there is no backup; move the folder away and start again"

    when = datetime.fromtimestamp(run.backup.stat().st_mtime).strftime("%H:%M")
    return (
        f"a backup from {when} is at {run.backup}: copy it to {run.database}, "
        f"delete {run.database.name}-wal and -shm, and run again"
    )


def _is_sound(database: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=_BUSY_TIMEOUT_S)) as connection:
            answer = connection.execute("PRAGMA quick_check").fetchone()
            return bool(answer == ("ok",))
    except sqlite3.OperationalError as error:
        # It is locked or unreadable, which says nothing about its content.
        raise UserError(
            f"{database} cannot be read: {error}; see whether another program uses it, and whether you may read it", 3
        ) from None
    except sqlite3.DatabaseError:
        return False


def back_up(run: RunDirectory) -> None:
    """Copy the SQLite database to its backup with SQLite's own mechanism, while it may be in use.

    A copy that fails, or of a database that has been damaged meanwhile, leaves the last good one in place.
    """
    if not run.database.exists():
        return

    temporary = run.root / f".{run.backup.name}.tmp"
    temporary.unlink(missing_ok=True)

    try:
        with (
            contextlib.closing(sqlite3.connect(run.database, timeout=_BUSY_TIMEOUT_S)) as source,
            contextlib.closing(sqlite3.connect(temporary)) as target,
        ):
            source.backup(target)

        if _is_sound(temporary):
            os.replace(temporary, run.backup)
    except (OSError, sqlite3.Error, UserError):
        temporary.unlink(missing_ok=True)


def _open_shared(url: str, heartbeat_s: int) -> RDBStorage:
    from sqlalchemy.exc import ArgumentError, OperationalError

    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme = ""  # what stands there instead may be a password
    if scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise UserError(f'storage = "{scheme}...": {_AS_URL}, or leave storage out', 3)

    try:
        return _open_postgresql(f"postgresql+psycopg://{rest}", heartbeat_s)
    except ImportError:
        raise UserError(
            f'storage = "{scheme}://...": the database driver is missing; run pip install -e ".[postgres]"', 3
        ) from None
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        if _is_ambiguous(rest):  # what was taken for the host may be a part of the password
            reason = _AS_PERCENT
        raise UserError(
            f'storage = "{scheme}://...": cannot connect: {reason}; start the server, or leave storage out', 3
        ) from None
    except (ArgumentError, ValueError, UnicodeError):
        raise UserError(f'storage = "{scheme}://...": not a database URL: {_AS_URL}; {_AS_PERCENT}', 3) from None


def _is_ambiguous(rest: str) -> bool:
    """Return whether a URL, less its scheme, has an "@", ":" or "/" that may belong to a password."""
    before_host, at, _ = rest.rpartition("@")
    return bool(at) and not re.fullmatch(r"[^@:/?#]*(:[^@:/?#]*)?", before_host)


def _open_postgresql(url: str, heartbeat_s: int) -> RDBStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    grace_s = MISSED_HEARTBEATS * heartbeat_s
    # A peer suspended in the middle of a transaction keeps its locks until the server ends it.
    connect_args = {"options": f"-c idle_in_transaction_session_timeout={grace_s}s"}

    # Peers that start together on an empty database would collide as they create its tables.
    with _advisory_lock(create_engine(url, poolclass=NullPool), "tables"):
        return RDBStorage(
            url,
            engine_kwargs={"pool_pre_ping": True, "connect_args": connect_args},
            heartbeat_interval=heartbeat_s,
            grace_period=grace_s,
        )


@contextlib.contextmanager
def exclusive(storage: RDBStorage, name: str) -> Iterator[None]:
    """Let one process at a time into a block that must not be done twice.

    SQLite needs nothing, since its run directory is held by one process; PostgreSQL gives an advisory
    lock, which it releases by itself when the holder dies.

    Args:
        storage: The study's storage.
        name: What is protected; the study's name.
    """
    if not is_shared(storage):
        yield
        return

    with _advisory_lock(storage.engine, name):
        yield


@contextlib.contextmanager
def _advisory_lock(engine: Engine, name: str) -> Iterator[None]:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(hashtext(:name))"), {"name": name})

        try:
            yield
        finally:
            # A peer that was suspended in here for too long has lost its connection, and the lock with it.
            try:
                connection.execute(text("SELECT pg_advisory_unlock(hashtext(:name))"), {"name": name})
            except DBAPIError:
                connection.invalidate()


@contextlib.contextmanager
def explain_storage_errors() -> Iterator[None]:
    """Turn a full disk, or a database that stopped answering, into an error that tells the user what to do.

    Raises:
        UserError: With exit code 3; what was stored until then is safe.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{error.strerror}; the study is parked and nothing is lost: free some space and run again", 3
        ) from error
    except (DBAPIError, StorageInternalError) as error:
        reason = str(getattr(error.__cause__ or error, "orig", error)).strip().splitlines()[0]
        raise UserError(f"the database failed: {reason}; what was stored before is safe: run again", 3) from error
