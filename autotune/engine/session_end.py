"""The end of the session in which a study runs, where its host ends sessions: a night may have several of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from autotune.core.text import duration, time_of_day
from autotune.engine.deadline import REPORT_S, Deadline, Interval

_MARGIN_S = 180.0
"""Seconds before the end at which a study parks: for an evaluation, the report and the last snapshot."""
_MARGIN_FRAC = 0.1
"""Largest share of a session that these may be."""
_KEPT_EVERY_S = 60.0


class SessionEnd:
    """When a study must be parked because its session ends, and how long it was worked on in all its sessions.

    Args:
        hours: Hours from now until the session ends; None if it does not.
        snapshot_s: Seconds that a snapshot of the study takes, asked again each time.
    """

    def __init__(self, hours: float | None = None, snapshot_s: Callable[[], float] = lambda: 0.0) -> None:
        self.hours = hours
        self._began = time.monotonic()
        self._leaves_at = float("inf")
        self.words = "the session ends"
        """What ends, for a sentence."""
        self._snapshot_s = snapshot_s
        self._before_s = 0.0
        self._keep: Callable[[float], None] | None = None
        self._is_due = Interval(_KEPT_EVERY_S)

    @property
    def margin_s(self) -> float:
        """Seconds before the session's end at which the study is to be parked."""
        if self.hours is None:
            return 0.0
        return min(_MARGIN_S, _MARGIN_FRAC * 3600 * self.hours) + self._snapshot_s()

    @property
    def usable_s(self) -> float:
        """Seconds of a whole session in which something can be trained; infinite if it does not end."""
        return float("inf") if self.hours is None else 3600 * self.hours - self.margin_s

    @property
    def seconds_left(self) -> float:
        """Seconds until the study is to be parked, below zero from then on; infinite if the session does not end."""
        now = time.monotonic()
        return min(self.usable_s - (now - self._began), self._leaves_at - now)

    @property
    def ends_in_s(self) -> float:
        """Seconds until the session itself ends."""
        return self.seconds_left + self.margin_s

    def leave_within(self, seconds: float) -> None:
        """Let this process leave a study, which others go on with, before some seconds from now are over.

        Args:
            seconds: From now until it is to be gone.
        """
        margin_s = min(REPORT_S, _MARGIN_FRAC * seconds)
        self._leaves_at = time.monotonic() + seconds - margin_s
        self.words = "this process leaves the study"

    def bound(self, deadline: Deadline) -> None:
        """Let a night that is over before its session ends be over before it would be parked.

        Args:
            deadline: When everything must be done.
        """
        if self.hours is not None and deadline.seconds_left <= self.ends_in_s:
            deadline.end_within(self.seconds_left)

    def count(self, before_s: float, keep: Callable[[float], None]) -> None:
        """Count what is worked on from now on.

        Args:
            before_s: Seconds that were worked on in earlier sessions.
            keep: Takes the seconds of all sessions, now and then.
        """
        self._before_s = before_s
        self._keep = keep

    def tick(self) -> None:
        """Keep the time that was worked, if that is due. Called often."""
        if self._keep is not None and self._is_due.has_passed():
            self.keep()

    def keep(self) -> None:
        """Keep the time that was worked."""
        if self._keep is not None:
            self._keep(self._before_s + time.monotonic() - self._began)

    def lines(self, total_s: float, now: datetime) -> list[tuple[str, str]]:
        """Return what a night of some seconds has to do with the session's end, with the kind of event that it is.

        Args:
            total_s: What the whole night takes at most.
            now: Local time.

        Returns:
            Nothing if the session is long enough.
        """
        if total_s <= self.seconds_left:
            return []

        sessions = 1 + -int(-(total_s - self.seconds_left) // self.usable_s)
        parks_at = time_of_day(self.seconds_left, now)
        each = duration(3600 * (self.hours or 0))
        words = (
            f"the session ends before: it parks at about {parks_at}, and the command that it prints goes on in the "
            f"next one; {sessions} sessions of {each} at the most (the time above is for one right after the other)"
        )
        return [("plan", words)]
