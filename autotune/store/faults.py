"""What a user is told when the disk or the database under a study fails."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from autotune.core.disk_faults import chain, explain_os_error, full_disk, is_full
from autotune.core.errors import UserError

_WAYS_OUT = {
    "locked": "another program has held the database for too long (a dashboard or a backup perhaps): end it",
    "readonly": "the database, or its folder, may not be written: see whose it is, or copy the folder",
    "unable to open": "see whether the folder is there and may be read and written",
    "disk i/o error": "see whether the disk has space, has locks (a network disk may have none) and is sound",
    "locking protocol": "the disk of the database has no locks: move the folder to a local disk",
    "malformed": "the database is damaged, and the next start says what can be done",
    "not a database": "the database is damaged, and the next start says what can be done",
}


def explained(error: BaseException, where: Path | None = None) -> UserError | None:
    """Return what a user is told of a fault of the disk or the database, None if an error is neither.

    Args:
        error: What was raised.
        where: The folder that was worked on, if it is known.
    """
    if is_full(error):
        named = (link for link in chain(error) if isinstance(link, OSError) and link.filename is not None)
        first = next(named, None)
        return full_disk(where) if first is None else explain_os_error(first, where)
    if isinstance(error, OSError):
        return explain_os_error(error, where)
    if _is_of_database(error):
        return UserError(f"the database failed: {_reason(error)}; what was stored before is safe: run again", 3)
    return None


def _is_of_database(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error):
        return True
    # Without the two packages in this process there is no error of theirs, and their imports take a second.
    if "sqlalchemy" not in sys.modules or "optuna" not in sys.modules:
        return False

    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError

    return isinstance(error, DBAPIError | StorageInternalError)


def _reason(error: BaseException) -> str:
    """Return what the database said, in a line, with what it means where that is known."""
    said = getattr(error.__cause__ or error, "orig", None) or error.__cause__ or error
    reason = (str(said).strip() or type(said).__name__).splitlines()[0]

    for words, way_out in _WAYS_OUT.items():
        if words in reason.lower():
            return f"{reason}; {way_out}"
    return reason


@contextlib.contextmanager
def explain_storage_errors(where: Path | None = None) -> Iterator[None]:
    """Turn a full disk, or a database that stopped answering, into an error that tells the user what to do.

    Args:
        where: The folder that is worked on.

    Raises:
        UserError: With exit code 3; what was stored until then is safe.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        told = explained(error, where)
        if told is None:
            raise
        raise told from error
