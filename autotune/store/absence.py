"""A shared database that goes away: who waits for it, for how long, and what is done again once it is back.

Waiting has one place: connecting (`store/postgresql.py`). A call whose connection is lost raises
`ConnectionLostError`, and is made again by `again_if_cut_off`; its next connection waits until the server is back.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from autotune.core.errors import UserError
from autotune.core.text import duration
from autotune.store.faults import ConnectionLostError

MISSED_HEARTBEATS = 3
"""Heartbeats without a sign of life after which a peer counts as dead."""
LONGEST_WAIT_S = 3600.0
"""A process that is at work waits this long for its database, or until its deadline."""
SHORT_WAIT_S = 30.0
"""One that is not waits this long, and only for a server that is there and says that it will answer soon."""
_FIRST_PAUSE_S = 0.2
_LOOK_S = 0.2
"""Seconds between two looks at whether the user wants the process to end."""
_MOST_TIMES = 20
"""Times in a row that one thing is done again: whatever cuts it off so often is not the server's absence."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Patience:
    """How a process waits that is at work on a study.

    Args:
        note: Takes the kind of something noteworthy and a sentence about it.
        is_stopped: Whether the user wants the process to end.
        seconds_left: Seconds until it has to end anyway.
    """

    note: Callable[[str, str], None]
    is_stopped: Callable[[], bool] = lambda: False
    seconds_left: Callable[[], float] = lambda: math.inf
    back_at: float = -math.inf
    """When the database was last found back, by the monotonic clock."""


_PATIENCE: ContextVar[Patience | None] = ContextVar("patience", default=None)


class _Held(Protocol):
    @property
    def invalidated(self) -> bool: ...


HELD: ContextVar[_Held | None] = ContextVar("held", default=None)
"""The connection whose advisory lock this thread holds."""


@contextlib.contextmanager
def patient(patience: Patience | None) -> Iterator[None]:
    """Let this thread wait for a shared database that goes away in the block.

    Args:
        patience: How; None not to wait.
    """
    token = _PATIENCE.set(patience)
    try:
        yield
    finally:
        _PATIENCE.reset(token)


def seconds_since_back() -> float:
    """Return how long ago this thread last found the database back; infinite if it never was away."""
    patience = _PATIENCE.get()
    return math.inf if patience is None else time.monotonic() - patience.back_at


def again_if_cut_off(call: Callable[P, T]) -> Callable[P, T]:
    """Return a call that is made again when it loses its connection, whether what it wrote was stored or not.

    Within a block of `exclusive` it is not: the lock is lost too, so that the whole block has to be done again, by the
    function that has this decorator and the block.

    Args:
        call: What may be done twice.
    """

    @functools.wraps(call)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        for times in range(_MOST_TIMES):
            try:
                return call(*args, **kwargs)
            except ConnectionLostError:
                if HELD.get() is not None or times == _MOST_TIMES - 1:
                    raise
        raise AssertionError

    return repeated


class Absence:
    """A database that cannot be reached, from the first attempt on.

    Args:
        longest_pause_s: Seconds between two attempts at most.
    """

    def __init__(self, longest_pause_s: float) -> None:
        self._longest_pause_s = longest_pause_s
        self._patience = _PATIENCE.get()
        self._began = time.monotonic()
        self._pause_s = _FIRST_PAUSE_S
        self._say_at_s = 0.0

    def wait(self, refusal: UserError, reason: str, answers_soon: bool) -> None:
        """Wait before the next attempt.

        The pauses double, and a random part of each is left out: a fleet must not come back at one moment.

        Args:
            refusal: What the user is told if this process does not wait.
            reason: Why the last attempt failed.
            answers_soon: Whether the server itself has said that it will answer soon.

        Raises:
            UserError: When it has waited for long enough, or with exit code 130 if it was stopped.
        """
        away_s = time.monotonic() - self._began
        if self._patience is None:
            if not answers_soon or away_s > SHORT_WAIT_S:
                raise refusal
        else:
            self._require_time(self._patience, away_s, reason)
            self._say(self._patience, away_s, reason)

        self._sleep(min(self._pause_s, self._longest_pause_s) * random.uniform(0.5, 1.0))
        self._pause_s *= 2

    def end(self) -> None:
        """Take notice that the database is back."""
        if self._patience is not None:
            now = time.monotonic()
            self._patience.back_at = now
            self._patience.note("database", f"the database is back after {duration(now - self._began)}; going on")

    def _require_time(self, patience: Patience, away_s: float, reason: str) -> None:
        if patience.is_stopped():
            raise UserError("stopped while the database was away; nothing is lost: run again", 130)
        if away_s > LONGEST_WAIT_S or patience.seconds_left() < 0:
            why = "for as long as this process waits" if away_s > LONGEST_WAIT_S else "until this process had to end"
            raise UserError(
                f"the database has been away for {duration(away_s)}, {why}: {reason}; what was stored before is safe: "
                "run again once the server is back",
                3,
            )

    def _say(self, patience: Patience, away_s: float, reason: str) -> None:
        if away_s < self._say_at_s:
            return

        since = f"has been away for {duration(away_s)}" if self._say_at_s else "does not answer"
        self._say_at_s = 2 * self._say_at_s or 60.0
        patience.note(
            "database", f"the database {since} ({reason}): waiting for it; trainings go on until their next evaluation"
        )

    def _sleep(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while (left_s := ends - time.monotonic()) > 0:
            if self._patience is not None and self._patience.is_stopped():
                return
            time.sleep(min(left_s, _LOOK_S))
