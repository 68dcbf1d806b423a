"""What a user is told when the disk or the database under a study fails."""

from __future__ import annotations

import contextlib
import re
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

_SAFE = "what was stored before is safe: run again"
_PASSWORD = (
    "give the password in PGPASSWORD, in ~/.pgpass or the file that PGPASSFILE names, or write ${VARIABLE} for it in "
    "the URL (a study's folder keeps none)"
)
AS_PERCENT = f"write @ : / ? # in a password as %40 %3A %2F %3F %23, or {_PASSWORD}"
_REFUSALS = {
    "password authentication failed": _PASSWORD,
    "no password supplied": _PASSWORD,
    "authentication failed": "see which user and which way to log in the server expects (its pg_hba.conf)",
    "no pg_hba.conf entry": "have the server's administrator let that user in from here (its pg_hba.conf)",
    'role ".*" does not exist': "correct the user in storage, or have that role made (CREATE ROLE ... LOGIN)",
    'database ".*" does not exist': "create that database, or correct its name in storage",
    "permission denied for database": "have its owner let this user in: GRANT CONNECT ON DATABASE",
    "not currently accepting connections": "let it be used again: ALTER DATABASE ... ALLOW_CONNECTIONS true",
    "clients already": "end what holds connections, raise max_connections of the server, or start fewer processes",
    "connection slots": "end what holds connections, raise max_connections of the server, or start fewer processes",
    "too many connections": "end what holds connections, raise that limit, or start fewer processes",
    "does not support ssl": "turn TLS on at the server, or ask for none with sslmode in the URL",
    "certificate": "name the right certificate in the URL (sslrootcert, sslcert, sslkey)",
    "sslmode": "correct it in the URL: disable, prefer, require, verify-ca or verify-full",
    "invalid connection option": "take it out of the URL: libpq has no such option",
    "invalid integer value|bad value": "correct it in the URL",
    "resolve host": "correct the host in storage, or see to the network",
}
"""Patterns of what is said of a refused connection, and the way out; the first that fits counts."""
_FINAL = ("fatal:", "invalid", "bad value", "no password supplied", "does not support ssl", "certificate")
"""What a server, or libpq by itself, says of a connection that it refuses."""
_LATER = (
    "starting up",
    "shutting down",
    "terminating connection",
    "in recovery mode",
    "not yet accepting",
    "clients already",
    "connection slots",
    "too many connections",
)
"""Of these, what passes by itself."""
_WAYS_OUT_BY_STATE = {
    "23503": "what it belongs to is gone: the study was deleted in the database",
    "25006": "the server may only be read (a standby, or set so): name the primary in storage",
    "42501": "have its owner GRANT what is missing: CREATE on the schema, and all on its tables and sequences",
    "53100": "the server's disk is full: free some space there",
    "3F000": "create that schema, or correct search_path",
}
"""PostgreSQL's error codes (appendix A of its manual), and the way out."""


_GONE = "Record does not exist."
"""Optuna's word for a study or a trial that is not there any more."""


class ConnectionLostError(Exception):
    """The connection to the shared database was lost, and with it a transaction or a lock; it may be done again."""


def first_line(error: BaseException) -> str:
    """Return what a database said, on a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].removeprefix("connection failed: ")


def is_final(error: BaseException) -> bool:
    """Return whether a connection that failed would fail again: the server, or libpq by itself, has refused it."""
    said = str(error).lower()
    return any(words in said for words in _FINAL) and not answers_soon(error)


def answers_soon(error: BaseException) -> bool:
    """Return whether a server that refused a connection is there and will take one soon."""
    said = str(error).lower()
    return any(words in said for words in _LATER)


def refusal_of(error: BaseException, is_ambiguous: bool = False) -> UserError:
    """Return what a user is told of a shared database that cannot be connected to.

    Args:
        error: What the driver raised.
        is_ambiguous: Whether what was taken for the host may be a part of the password.
    """
    where = 'storage = "postgresql://...": cannot connect'
    if is_ambiguous:
        return UserError(f"{where}: {AS_PERCENT}", 3)

    reason = first_line(error)
    found = (way_out for pattern, way_out in _REFUSALS.items() if re.search(pattern, reason.lower()))
    way_out = next(found, "see whether the server runs there, and whether it can be reached from here")
    return UserError(f"{where}: {reason}; {way_out}", 3)


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
    if isinstance(error, ConnectionLostError):
        return UserError(f"the connection to the database was lost again and again ({error}); {_SAFE}", 3)
    if isinstance(error, KeyError) and error.args == (_GONE,):
        return UserError(
            "the study was deleted in the database while it was in use; if that was not meant, put the database back "
            "from a backup: `autotune run` begins it anew otherwise",
            3,
        )
    if _is_of_database(error):
        return UserError(f"the database failed: {_reason(error)}; {_SAFE}", 3)
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
    reason = first_line(said)

    state = getattr(said, "sqlstate", None)
    if state in _WAYS_OUT_BY_STATE:
        return f"{reason}; {_WAYS_OUT_BY_STATE[state]}"
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
