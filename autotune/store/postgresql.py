"""A PostgreSQL that several machines share: its address, connections that outlive its absence, its locks.

Imported only where a study has one, since the imports take a second and the driver may be missing.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import psycopg
from optuna.exceptions import StorageInternalError
from sqlalchemy import Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.pool import NullPool

from autotune.core.errors import UserError
from autotune.store.absence import HELD, MISSED_HEARTBEATS, Absence, again_if_cut_off, seconds_since_back
from autotune.store.faults import ConnectionLostError, answers_soon, first_line, is_final, refusal_of
from autotune.store.trial_rows import TrialRows

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry

_SCHEME = "postgresql+psycopg://"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LONGEST_PAUSE_S = 10.0
_IDLE_S = 5.0
"""A connection that was not used for so long is asked whether it is still there."""
_NETWORK = {
    "connect_timeout": 10,
    # A server whose machine or network is gone says nothing: the system asks now and then whether it is there.
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 50_000,
    "application_name": "autotune",
    # Of a database in SQL_ASCII, as initdb makes it without a locale, the driver would give bytes for texts.
    "client_encoding": "UTF8",
}
"""Seconds, and milliseconds for `tcp_user_timeout`; what the URL says of them counts instead."""
_ENDED = {"57P01", "57P02", "57P05", "25P03"}
"""PostgreSQL's error codes of sessions that it ends: it shuts down, has crashed, or a session was idle for too long."""
_TABLES = "tables of Optuna"
"""Name of the lock for them; no study can have it."""


@dataclass(frozen=True)
class Server:
    """A database at its address.

    Args:
        address: Its URL without the scheme; `${VAR}` stands for a variable of the environment.
        heartbeat_s: Seconds between signs of life of a peer.
    """

    address: str
    heartbeat_s: int

    @property
    def is_ambiguous(self) -> bool:
        """Whether an "@", ":" or "/" of the address may belong to a password."""
        before_host, at, _ = self.address.rpartition("@")
        return bool(at) and not re.fullmatch(r"[^@:/?#]*(:[^@:/?#]*)?", before_host)

    @property
    def grace_s(self) -> int:
        """Seconds without a sign of life after which a peer counts as dead."""
        return MISSED_HEARTBEATS * self.heartbeat_s

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """What the driver is told to connect.

        Raises:
            UserError: If the URL names a variable that is not set.
            ArgumentError, ValueError: If it is no URL.
        """
        url = make_url(_SCHEME + self.address)
        # Part by part: what a variable holds need not be written as a part of a URL.
        url = url.set(
            username=_filled(url.username),
            password=_filled(url.password),
            host=_filled(url.host),
            database=_filled(url.database),
        )
        _, named = url.get_dialect()().create_connect_args(url)
        options: dict[str, Any] = {**_NETWORK, **{key: _filled(value) for key, value in named.items()}}

        # A peer suspended in the middle of a transaction keeps its locks until the server ends it.
        own = f"-c idle_in_transaction_session_timeout={self.grace_s}s"
        options["options"] = f"{options.get('options', '')} {own}".strip()
        return options

    def connect(self) -> psycopg.Connection[Any]:
        """Connect, waiting for a server that is away as long as this process has patience.

        Raises:
            UserError: If the server refuses, or is away for too long.
        """
        absence: Absence | None = None
        while True:
            try:
                connection = psycopg.connect(**self.options)
            except psycopg.Error as error:
                refusal = refusal_of(error, self.is_ambiguous)
                if is_final(error):
                    raise refusal from None
                absence = absence or Absence(min(_LONGEST_PAUSE_S, self.heartbeat_s))
                absence.wait(refusal, first_line(error), answers_soon(error))
            else:
                if absence is not None:
                    absence.end()
                return connection

    @again_if_cut_off
    def open(self) -> SharedStorage:
        """Open the Optuna storage in it, and create its tables where they are missing."""
        lone = _engine_of(self)
        try:
            # Peers that start together on an empty database would collide as they create its tables.
            with _advisory_lock(lone, _TABLES, self.grace_s):
                return SharedStorage(self)
        except (DBAPIError, StorageInternalError) as error:
            fault = error if isinstance(error, DBAPIError) else error.__cause__
            if isinstance(fault, DBAPIError) and (fault.connection_invalidated or _is_cut_off(fault.orig)):
                raise ConnectionLostError(first_line(fault)) from error
            raise


def _filled(value: Any) -> Any:
    """Return a part of a URL with the values of the variables that it names."""
    return _VARIABLE.sub(_value_of, value) if isinstance(value, str) else value


def _value_of(found: re.Match[str]) -> str:
    name = found.group(1)
    value = os.environ.get(name)
    if value is None:
        raise UserError(f"storage names ${{{name}}}, and there is no such variable here: export {name}=...", 3)
    return value


def _engine_of(server: Server) -> Engine:
    engine = create_engine(_SCHEME, creator=server.connect, poolclass=NullPool)
    event.listen(engine, "handle_error", _as_lost)
    return engine


def _as_lost(context: ExceptionContext) -> BaseException | None:
    """Return what is raised instead of a database's error; Optuna would wrap the error, or try again by itself."""
    # While a connection is being made ready, nobody has looked at it.
    is_lost = context.is_disconnect or (context.connection is None and _is_cut_off(context.original_exception))
    if is_lost and not context.is_pre_ping:
        return ConnectionLostError(first_line(context.original_exception))
    return None


def _is_cut_off(error: BaseException | None) -> bool:
    """Return whether a driver's error says that its connection has ended: by the server's word, or by libpq alone."""
    if not isinstance(error, psycopg.Error):
        return False
    return error.sqlstate in _ENDED or (error.sqlstate is None and isinstance(error, psycopg.OperationalError))


def _keep_use(_: object, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _require_there(connection: psycopg.Connection[Any], record: ConnectionPoolEntry, _: object) -> None:
    """Have all connections made anew if one that lay idle is gone.

    One that was used a moment ago is not asked: it may go at any statement, and what goes with it is done again.
    """
    if time.monotonic() - record.info.get("used_at", math.inf) < _IDLE_S:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except psycopg.Error:
        raise InvalidatePoolError from None


def _require_lock(*_: object) -> None:
    """Refuse this thread another connection as long as it is in the block of a lock that it has lost."""
    held = HELD.get()
    if held is not None and held.invalidated:
        raise ConnectionLostError("the lock was lost with its connection")


class SharedStorage(TrialRows):
    """Optuna's storage in a server that may go away: what loses its connection is done again.

    Not so a new trial, which would be there twice if it was stored and only the answer was lost, nor the end of one,
    which would be refused: both are stored within a block of `exclusive`, which looks at what is there when it is done
    again.

    Args:
        server: The server.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        try:
            super().__init__(
                _SCHEME,
                engine_kwargs={"creator": server.connect},
                heartbeat_interval=server.heartbeat_s,
                grace_period=server.grace_s,
            )
        except BaseException:
            self.engine.dispose()
            raise
        event.listen(self.engine, "handle_error", _as_lost)
        event.listen(self.engine, "checkout", _require_lock)
        event.listen(self.engine, "checkin", _keep_use)
        event.listen(self.engine, "checkout", _require_there)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Return the trials of dead peers: none as long as living peers may not have found the server back."""
        grace_s = self.grace_period or self.server.grace_s
        if seconds_since_back() < grace_s or self._server_s() < grace_s:
            return []
        return super()._get_stale_trial_ids(study_id)

    def _server_s(self) -> float:
        """Return for how many seconds the server has been up."""
        up = select(func.extract("epoch", func.clock_timestamp() - func.pg_postmaster_start_time()))
        return float(self.query(up)[0][0])


_DONE_AGAIN = (
    "query",
    "create_new_study",
    "delete_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "set_trial_param",
    "_set_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "get_all_trials",
    "_get_trials",
    "get_best_trial",
    "_get_best_trial_id",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "record_heartbeat",
    "_get_stale_trial_ids",
    "silent_trial_ids",
)
"""Calls that store or read the same when they are made twice."""
for _name in _DONE_AGAIN:
    setattr(SharedStorage, _name, again_if_cut_off(getattr(SharedStorage, _name)))


@contextlib.contextmanager
def locked(storage: SharedStorage, name: str) -> Iterator[None]:
    """Hold an advisory lock, and let all that this thread does with the storage go through the lock's own connection.

    So a process that has lost the lock, with its connection, cannot write what only its holder may: whatever it tries
    raises ConnectionLostError until the block is left.

    Args:
        storage: The storage.
        name: What is protected.
    """
    with _advisory_lock(storage.engine, name, storage.server.grace_s) as connection:
        storage.remove_session()
        storage.scoped_session(bind=connection)
        token = HELD.set(connection)
        try:
            yield
        finally:
            HELD.reset(token)
            storage.remove_session()


@contextlib.contextmanager
def _advisory_lock(engine: Engine, name: str, grace_s: int) -> Iterator[Connection]:
    connection = _locking_connection(engine, name, grace_s)
    try:
        yield connection
    finally:
        with contextlib.suppress(ConnectionLostError):  # the lock is free then
            if not connection.invalidated:
                connection.rollback()
                timeout = _idle_timeout(connection, "0")
                connection.execute(select(func.pg_advisory_unlock(func.hashtext(name)), *timeout))
                connection.commit()
        connection.close()


@again_if_cut_off
def _locking_connection(engine: Engine, name: str, grace_s: int) -> Connection:
    connection = engine.connect()
    try:
        # A peer that is suspended with the lock keeps it until the server ends its connection.
        timeout = _idle_timeout(connection, f"{grace_s}s")
        connection.execute(select(func.pg_advisory_lock(func.hashtext(name)), *timeout))
        connection.commit()
    except BaseException:
        connection.invalidate()
        connection.close()
        raise
    return connection


def _idle_timeout(connection: Connection, value: str) -> list[Any]:
    """Return what sets after how much silence the server ends a session; earlier ones than PostgreSQL 14 cannot."""
    if (connection.dialect.server_version_info or ()) < (14,):
        return []
    return [func.set_config("idle_session_timeout", value, False)]
