"""The backup of a study's SQLite database, from the first minute on."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

from autotune.core.errors import UserError
from autotune.store.run_directory import RunDirectory
from autotune.store.sqlite_file import BUSY_TIMEOUT_S, damage_of

EVERY_S = 60.0
"""Least seconds between two backups; a damaged database costs at most the work of so long."""
_COST_FRAC = 0.01
"""Largest share of the time that backups may take: the event loop waits for them."""


class Backups:
    """Backs a study up now and then."""

    def __init__(self) -> None:
        self._due = time.monotonic() + EVERY_S

    def tick(self, run: RunDirectory) -> None:
        """Back a study up if that is due. Called often.

        Args:
            run: Its run directory.
        """
        began = time.monotonic()
        if began < self._due:
            return

        back_up(run)
        ended = time.monotonic()
        self._due = ended + max(EVERY_S, (ended - began) / _COST_FRAC)


def back_up(run: RunDirectory) -> None:
    """Copy the SQLite database to its backup with SQLite's own mechanism, while it may be in use.

    A copy that fails, or of a database that has been damaged meanwhile, leaves the last good one in place. One that
    holds more trials than the database, which somebody has put back from elsewhere, is kept beside it.

    Args:
        run: The run directory.
    """
    if not run.database.exists():
        return

    temporary = run.root / f".{run.backup.name}.tmp"
    try:
        _remove(temporary)
        with (
            contextlib.closing(sqlite3.connect(run.database, timeout=BUSY_TIMEOUT_S)) as source,
            contextlib.closing(sqlite3.connect(temporary)) as target,
        ):
            source.backup(target)
            is_good = not damage_of(target)

        if is_good:
            _replace(run, temporary)
        else:
            _remove(temporary)
    except (OSError, sqlite3.Error, UserError):
        with contextlib.suppress(OSError):
            _remove(temporary)


def _remove(copy: Path) -> None:
    """Remove a copy with its journal, which stays behind, as large as the copy, where the disk is full."""
    for suffix in ("", "-wal", "-shm"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)


def _replace(run: RunDirectory, copy: Path) -> None:
    if _trials(run.backup) > _trials(copy):
        os.replace(run.backup, run.larger_backup)
    os.replace(copy, run.backup)


def _trials(database: Path) -> int:
    """Return how many trials a database holds, 0 if it cannot be read."""
    if not database.exists():
        return 0
    with (
        contextlib.suppress(sqlite3.Error),
        # Nobody writes it: without a lock no journal is made beside it.
        contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?immutable=1", uri=True)) as connection,
    ):
        return int(connection.execute("SELECT COUNT(*) FROM trials").fetchone()[0])
    return 0
