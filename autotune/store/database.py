"""The database under a study: SQLite in its run directory, or a PostgreSQL that several machines share.

Processes that share a PostgreSQL take turns through its advisory locks.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from autotune.core.errors import UserError
from autotune.core.text import shortened
from autotune.store.absence import MISSED_HEARTBEATS
from autotune.store.faults import AS_PERCENT, explain_storage_errors
from autotune.store.run_directory import RunDirectory
from autotune.store.sqlite_file import (
    Connect,
    connect_to_write,
    explain_damage,
    reader_of,
    require_sound,
    require_there,
)
from autotune.study.spec import STORAGE_SCHEMES

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_STORAGE_VARIABLE = "OPTUNA_STORAGE"
"""Names a shared database, for Optuna's own commands too."""
_READABLE: set[tuple[int, int]] = set()
"""Files (device, inode) whose tables this process has found to be in Optuna's present form: that takes a while."""
_AS_URL = 'write it as "postgresql://user@host/database"'


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


def named_storage(run: RunDirectory, folder_url: str, named_url: str = "") -> str:
    """Return the database to read a study from: where its folder names a shared one, the one that the user names.

    A folder may be somebody else's, and connecting tells a server of its choice who reads it, and may send a password.

    Args:
        run: The study's run directory.
        folder_url: What the folder says: the URL of a shared database, or "" for the file in the folder.
        named_url: What the user says; by default the environment's word counts.

    Raises:
        UserError: If the user names none.
    """
    if not folder_url:
        return ""
    if url := named_url or os.environ.get(_STORAGE_VARIABLE, ""):
        return url

    # Of a password, nothing; of what is no URL, which may be one, nothing either.
    scheme, mark, _ = folder_url.partition("://")
    where = shortened(folder_url, 200) if mark and scheme in STORAGE_SCHEMES else "a database"
    raise UserError(
        f"{run.root}: its records are in {where}, and a folder's word connects to nothing but itself: if you know "
        f"that database, give its URL as --storage or {_STORAGE_VARIABLE}, or name the study file instead of the folder"
    )


def is_shared(storage: RDBStorage) -> bool:
    """Return whether several processes may work on the storage at once."""
    return storage.engine.dialect.name != "sqlite"


def _open_sqlite(run: RunDirectory) -> RDBStorage:
    run.root.mkdir(parents=True, exist_ok=True)
    require_there(run)

    def connect() -> sqlite3.Connection:
        return connect_to_write(run.database)

    require_sound(run, connect)
    storage = _storage(connect, "BEGIN IMMEDIATE", is_readable=_file_of(run) in _READABLE)
    with explain_damage(run):
        for study in storage.get_all_studies():
            storage.get_all_trials(study._study_id, deepcopy=False)

    _READABLE.add(_file_of(run))
    return storage


def _file_of(run: RunDirectory) -> tuple[int, int]:
    found = run.database.stat()
    return found.st_dev, found.st_ino


def _storage(connect: Connect, begin: str, is_readable: bool = False) -> RDBStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy import event

    # The address is of no consequence, since `connect` knows the file; no path has to be written as one.
    storage = RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect}, skip_compatibility_check=is_readable)
    event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return storage


@contextlib.contextmanager
def storage_to_read(run: RunDirectory, spec_storage: str = "", heartbeat_s: int = 20) -> Iterator[RDBStorage]:
    """Open the Optuna storage of a study that is only read, also from a folder that may not be written.

    Args:
        run: The study's run directory.
        spec_storage: URL of the shared database, or "".
        heartbeat_s: Seconds between signs of life, for a shared database.

    Raises:
        UserError: As `open_storage`, and if there is no database.
    """
    with contextlib.ExitStack() as stack:
        if not spec_storage:
            require_there(run, is_read=True)
        if spec_storage or _takes_writers(run):
            storage = open_storage(run, spec_storage, heartbeat_s)
        else:
            connect = stack.enter_context(reader_of(run.database, run.has_locks()))
            require_sound(run, connect)
            storage = _storage(connect, "BEGIN")
            stack.enter_context(explain_damage(run))
        yield stack.enter_context(_closing(storage))


@contextlib.contextmanager
def storage_to_write(run: RunDirectory, spec_storage: str = "", heartbeat_s: int = 20) -> Iterator[RDBStorage]:
    """Open the Optuna storage of a study beside the process that runs it, if one does.

    Args:
        run: The study's run directory.
        spec_storage: URL of the shared database, or "".
        heartbeat_s: Seconds between signs of life, for a shared database.

    Raises:
        UserError: As `open_storage`, and if there is no database.
    """
    if not spec_storage:
        require_there(run, is_read=True)

    with _closing(open_storage(run, spec_storage, heartbeat_s)) as storage:
        yield storage


@contextlib.contextmanager
def _closing(storage: RDBStorage) -> Iterator[RDBStorage]:
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _takes_writers(run: RunDirectory) -> bool:
    """Return whether the database can be opened as one that is written, which leaves its content as it is."""
    may_write = os.access(run.root, os.W_OK) and os.access(run.database, os.W_OK)
    if not may_write or not run.has_locks():
        return False

    try:
        with contextlib.closing(connect_to_write(run.database)) as connection:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        return "locked" in str(error)  # by another program, for a while
    except sqlite3.DatabaseError:
        return True  # it is damaged, which is told where it is opened
    return True


def _open_shared(url: str, heartbeat_s: int) -> RDBStorage:
    scheme, mark, address = url.partition("://")
    if not mark:
        scheme = ""  # what stands there instead may be a password
    if scheme not in STORAGE_SCHEMES:
        raise UserError(f'storage = "{scheme}...": {_AS_URL}', 3)

    try:
        from autotune.store.postgresql import Server
    except ImportError:
        raise UserError(
            f'storage = "{scheme}://...": the database driver is missing; run pip install -e ".[postgres]"', 3
        ) from None

    from sqlalchemy.exc import ArgumentError

    try:
        with explain_storage_errors():
            return Server(address, heartbeat_s).open()
    except (ArgumentError, ValueError, UnicodeError):
        raise UserError(f'storage = "{scheme}://...": not a database URL: {_AS_URL}; {AS_PERCENT}', 3) from None
    except RuntimeError as error:
        # Optuna refuses tables of another form.
        raise UserError(
            f'storage = "{scheme}://...": its tables were made by another version of Optuna: {str(error).rstrip(".")}; '
            "use that version here, or another database, which stays empty until then",
            3,
        ) from None


def beat_every(storage: RDBStorage, heartbeat_s: int) -> None:
    """Count trials of a shared storage as lost by other heartbeats than it was opened with.

    Args:
        storage: A shared storage.
        heartbeat_s: Seconds between signs of life.
    """
    storage.heartbeat_interval = heartbeat_s
    storage.grace_period = MISSED_HEARTBEATS * heartbeat_s


@contextlib.contextmanager
def exclusive(storage: RDBStorage, name: str) -> Iterator[None]:
    """Let one process at a time into a block that must not be done twice.

    SQLite needs nothing, since its run directory is held by one process; PostgreSQL gives an advisory
    lock, which it releases by itself when the holder dies. A holder that loses its connection can write nothing more:
    `ConnectionLostError` leaves the block, and `again_if_cut_off`, around the function that has it, does it again.

    Args:
        storage: The study's storage.
        name: What is protected; the study's name.
    """
    if not is_shared(storage):
        yield
        return

    from autotune.store.postgresql import SharedStorage, locked

    assert isinstance(storage, SharedStorage)
    with locked(storage, name):
        yield
