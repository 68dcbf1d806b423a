"""A process's place among the peers of a shared study: its name, and whether it coordinates them.

Both are advisory locks of a database session of its own. The server frees them when the process dies, and when it gives
no sign of life for some heartbeats, so that nobody has to compare the clocks of machines.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from autotune.core.errors import UserError
from autotune.core.peers import Peer, peers_in
from autotune.store.absence import MISSED_HEARTBEATS, again_if_cut_off
from autotune.store.database import is_shared
from autotune.store.faults import ConnectionLostError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import Connection, Engine

_COORDINATOR = 0
"""Second key of the coordinator's lock; those of peers are their ids. The first key is a hash of the study's name."""
_HELD = """
    SELECT objid::bigint, pid FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = hashtext(:name)::oid
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Membership:
    """The place of the one process that works on a study in its own folder."""

    id = ""
    """Names this process among the peers; "" where there are none."""
    is_shared = False
    is_coordinator = True
    """Whether this process plans, concludes and promotes."""

    def others(self) -> frozenset[str]:
        """Return the ids of the other processes that work on the study now."""
        return frozenset()

    def clock(self) -> float:
        """Return the time that all peers agree on, seconds since 1970."""
        return time.time()

    def confirm(self) -> bool:
        """Return whether this process coordinates, asked at the source."""
        return True

    def beat_every(self, seconds: float) -> None:
        """Give a sign of life every so many seconds."""

    def leave(self) -> None:
        """Give up the place, for another process to take."""


class SharedMembership(Membership):
    """The place of one of several processes.

    Args:
        storage: The shared storage.
        name: The study's name.
        heartbeat_s: Seconds between signs of life.
        may_coordinate: Whether it takes over where nobody coordinates.
        on_lost: Called, from another thread, when another process has taken over after this one was silent for long.
    """

    is_shared = True

    def __init__(
        self,
        storage: RDBStorage,
        name: str,
        heartbeat_s: float,
        may_coordinate: bool = True,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_coordinator = False
        self._engine: Engine = storage.engine
        self._name = name
        self._every_s = heartbeat_s
        self._may_coordinate = may_coordinate
        self._on_lost = on_lost
        self._session: Connection | None = None
        self._may_lead_from = -math.inf
        self._held = threading.RLock()
        self._leaving = threading.Event()
        self._is_due = threading.Event()
        self._beating = threading.Thread(target=self._keep_beating, name="signs of life", daemon=True)

        while self._session is None:
            self.id = secrets.token_hex(4)
            self._enter()
        self._try_to_coordinate()

        self._beating.start()

    @again_if_cut_off
    def others(self) -> frozenset[str]:
        """Return the ids of the other processes that work on the study now."""
        with self._held, self._in_session() as session:
            return frozenset(_living(session, self._name)) - {self.id}

    @again_if_cut_off
    def clock(self) -> float:
        """Return the time of the database server, seconds since 1970."""
        with self._held, self._in_session():
            return float(self._value("SELECT extract(epoch FROM clock_timestamp())"))

    @again_if_cut_off
    def confirm(self) -> bool:
        """Return whether this process coordinates, by the word of the server; an absent one is waited for."""
        with self._held, self._in_session():
            self._value("SELECT 1")
            self._try_to_coordinate()
            return self.is_coordinator

    def beat_every(self, seconds: float) -> None:
        """Give a sign of life every so many seconds."""
        with self._held:
            self._every_s = seconds
            self._set_patience()
        self._is_due.set()  # the server may not wait until the next beat as it was due before

    def leave(self) -> None:
        """Give up the place, for another process to take."""
        self._leaving.set()
        self._is_due.set()
        self._beating.join(self._every_s)
        if self._beating.is_alive():
            return  # it waits for a server that does not answer, and ends with the process

        # Closing the session would free the place as well, but only a moment later.
        with contextlib.suppress(ConnectionLostError):
            self._value("SELECT pg_advisory_unlock_all()")
        self._drop()

    def _keep_beating(self) -> None:
        while not self._leaving.is_set():
            self._is_due.wait(self._every_s)
            self._is_due.clear()
            if not self._leaving.is_set():
                self._beat()

    def _beat(self) -> None:
        # The server is away, or has ended the session: see at the next beat. This thread waits for nothing.
        with self._held, contextlib.suppress(ConnectionLostError, UserError):
            if self._session is None:
                self._enter()
            self._value("SELECT 1")
            self._try_to_coordinate()

    @contextlib.contextmanager
    def _in_session(self) -> Iterator[Connection]:
        """Give the session, a new one if it was lost: a server that is away is waited for as everywhere."""
        while self._session is None:
            self._enter()
            if self._session is None:  # the server has not yet seen that the one before has ended
                time.sleep(min(1.0, self._every_s))
        try:
            yield self._session
        except ConnectionLostError:
            self._drop()
            raise

    def _enter(self) -> None:
        """Begin a session and take the place of this id in it, unless another session holds that."""
        self._session = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._set_patience()
        place = int(self.id, 16)
        if place == _COORDINATOR or not self._takes(place):
            self._drop()
        elif self._beating.is_alive():
            self._take_up_again()

    def _set_patience(self) -> None:
        """Let the server end this session when there is no sign of life, and find out when the network is gone."""
        patience_s = round(MISSED_HEARTBEATS * self._every_s)
        self._value(
            "SELECT set_config('idle_session_timeout', :timeout, false), "
            "set_config('tcp_keepalives_idle', :idle, false), set_config('tcp_keepalives_interval', :idle, false), "
            "set_config('tcp_keepalives_count', :count, false)",
            timeout=f"{patience_s}s",
            idle=str(max(1, round(self._every_s))),
            count=str(MISSED_HEARTBEATS),
        )

    def _take_up_again(self) -> None:
        """Coordinate in the new session as in the one that was lost, unless another process does so by now.

        Where the server was away, all have lost theirs: whoever coordinated has time to come back before the others.
        """
        self._may_lead_from = time.monotonic() + MISSED_HEARTBEATS * self._every_s
        if not self.is_coordinator:
            return
        self.is_coordinator = self._takes(_COORDINATOR)
        if not self.is_coordinator:
            self._on_lost()

    def _try_to_coordinate(self) -> None:
        is_free_to = self._may_coordinate and time.monotonic() >= self._may_lead_from
        if self._session is not None and is_free_to and not self.is_coordinator:
            self.is_coordinator = self._takes(_COORDINATOR)

    def _takes(self, place: int) -> bool:
        return bool(self._value("SELECT pg_try_advisory_lock(hashtext(:name), :place)", place=_signed(place)))

    def _value(self, statement: str, **values: Any) -> Any:
        from sqlalchemy import text

        if self._session is None:
            return None
        try:
            return self._session.execute(text(statement), {"name": self._name, **values}).scalar()
        except ConnectionLostError:
            self._drop()  # it would connect again by itself, without its locks
            raise

    def _drop(self) -> None:
        if self._session is not None:
            self._session.invalidate()
            self._session.close()
            self._session = None


@again_if_cut_off
def living_peers(storage: RDBStorage, name: str) -> dict[str, bool]:
    """Return whether each process that works on a study now coordinates it, by their ids; none of a study on SQLite.

    Args:
        storage: The study's storage.
        name: Its name.
    """
    if not is_shared(storage):
        return {}

    with storage.engine.connect() as connection:
        return _living(connection, name)


def peers_at_work(storage: RDBStorage, name: str) -> tuple[Peer, ...]:
    """Return the processes that work on a study now, the coordinator first; none of a study on SQLite.

    Args:
        storage: The study's storage.
        name: Its name.
    """
    if not (living := living_peers(storage, name)):
        return ()
    return peers_in(storage.get_study_user_attrs(storage.get_study_id_from_name(name)), living)


def _living(connection: Connection, name: str) -> dict[str, bool]:
    from sqlalchemy import text

    held = {int(place): int(pid) for place, pid in connection.execute(text(_HELD), {"name": name})}
    coordinator = held.get(_COORDINATOR)
    return {f"{place:08x}": pid == coordinator for place, pid in held.items() if place != _COORDINATOR}


def _signed(place: int) -> int:
    """Return a number of 32 bits as PostgreSQL's integers have it."""
    return place - 2**32 if place >= 2**31 else place
