"""When everything must be done, and how long a training takes by what was measured so far."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

MARGIN = 1.1
"""A training may take this many times as long as the slowest recent ones before it misses the deadline."""
REPORT_S = 20.0
"""Seconds kept for the verdict, the report and the end of the process."""


_SUCCEEDED = "as another process coordinates the study by now"


class StopRequest:
    """How urgently the user wants the run to end: 0 not at all, 1 after the next evaluation, 2 now."""

    USER = "by the user"

    def __init__(self) -> None:
        self.by = self.USER
        """Why, as the end of a sentence."""
        self._asked = 0
        self._now_from = float("inf")

    @property
    def level(self) -> int:
        """How urgently; what was to be waited for within a grace is not waited for after it."""
        return 2 if time.monotonic() >= self._now_from else self._asked

    def end_session(self, words: str) -> None:
        """Ask for the end after the next evaluation, for a reason that came about by itself.

        Args:
            words: The reason: "the session ends".
        """
        if not self._asked:
            self.by = f"as {words}"
            self._asked = 1

    def park(self, now: bool) -> None:
        """Ask for the end as a user does who is not at this machine.

        Args:
            now: Whether trainings are not let go on to their next evaluation.
        """
        self.by = self.USER
        self._asked = max(self._asked, 2 if now else 1)

    def step_down(self) -> None:
        """Ask for the end of what this process coordinates, since another has taken over: it goes on as a worker."""
        if not self._asked:
            self.by = _SUCCEEDED
            self._asked = 1

    def goes_on(self) -> bool:
        """Take back what `step_down` asked for; return whether there is no other reason to end."""
        if self.by == _SUCCEEDED and self._asked == 1:
            self._asked = 0
            self.by = self.USER
        return not self.level

    def raise_level(self, *_: object) -> None:
        """Count one more request; fits a signal handler."""
        self._asked = min(2, self._asked + 1)

    def end_within(self, grace_s: float) -> None:
        """Count one more request, of somebody who does not wait for long: a system that ends this process.

        Args:
            grace_s: Seconds for which the next evaluation is waited for.
        """
        self.raise_level()
        self._now_from = min(self._now_from, time.monotonic() + grace_s)


class Deadline:
    """A moment at which everything must be done, held against the monotonic clock.

    Args:
        hours: Hours from now, or None.
        until: Local time of day "HH:MM", the next one to come, or None; the earlier of the two counts.
        is_asked: Whether whoever starts the study names it, and not the study file.
    """

    def __init__(self, hours: float | None = None, until: str | None = None, is_asked: bool = False) -> None:
        now = time.monotonic()
        self.words = f"hours {hours and float(hours)}, until {until}"
        """What it was made from."""
        self.is_asked = is_asked
        self._hours_end = float("inf") if hours is None else now + hours * 3600
        self._until_end = float("inf") if until is None else now + seconds_until(until, datetime.now())

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; infinite when there is none."""
        return min(self._hours_end, self._until_end) - time.monotonic()

    def end_within(self, seconds: float) -> None:
        """Let everything be done within some seconds from now, if it is not to be sooner."""
        self._hours_end = min(self._hours_end, time.monotonic() + seconds)

    def move_to(self, seconds: float) -> None:
        """Let everything be done some seconds from now, sooner or later than before."""
        self._hours_end = self._until_end = time.monotonic() + seconds

    def take_off(self, seconds: float) -> None:
        """Count some seconds of earlier sessions among the hours; a time of day stays what it is."""
        self._hours_end -= seconds

    def has_time(self, reserve_s: Callable[[], float]) -> Callable[[float], bool]:
        """Return what tells whether a training of some seconds may start.

        Args:
            reserve_s: Seconds to keep for what comes later, asked again each time.
        """
        return lambda training_s: self.seconds_left - reserve_s() >= training_s * MARGIN


def seconds_until(time_of_day: str, now: datetime) -> float:
    """Return the seconds from now to the next such time of day.

    Args:
        time_of_day: "HH:MM", local time.
        now: The present, in this machine's zone or with a zone of its own.
    """
    hour, minute = map(int, time_of_day.split(":"))
    then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if then <= now:
        then += timedelta(days=1)

    # By timestamps: the difference of two local times would miss the hour of a change to summer time.
    return then.timestamp() - now.timestamp()


class Interval:
    """Tells again and again when some time has passed.

    Args:
        seconds: How much time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since = time.monotonic()

    def has_passed(self) -> bool:
        """Return whether the time has passed; it begins anew once it has."""
        now = time.monotonic()
        if now - self._since <= self._seconds:
            return False
        self._since = now
        return True


class Pace:
    """Seconds that a training of a given length takes, learned from those that ran."""

    def __init__(self) -> None:
        self._estimate = 0.0
        self._cold = 0.0
        self._recent: deque[float] = deque(maxlen=20)

    def expect(self, tokens: int, seconds: float) -> None:
        """Take an estimate, which holds until the first training is measured.

        Args:
            tokens: Tokens of a training.
            seconds: What it is expected to take.
        """
        self._estimate = seconds / tokens

    def begin_anew(self, tokens: int, seconds: float) -> None:
        """Take an estimate for trainings of another kind, and forget what those before took.

        Args:
            tokens: Tokens of a training.
            seconds: What it is expected to take.
        """
        self._cold = 0.0
        self._recent.clear()
        self.expect(tokens, seconds)

    def learn(self, tokens: int, seconds: float, is_cold: bool = False) -> None:
        """Take a training into account.

        Args:
            tokens: Tokens that it trained on.
            seconds: Its whole duration, evaluations included.
            is_cold: Whether it was the first of its process, with all that is made once: loading, compiling. On a fast
                card that is several times the training, so it counts only until another one is measured.
        """
        if tokens > 0 and is_cold:
            self._cold = seconds / tokens
        elif tokens > 0:
            self._recent.append(seconds / tokens)

    def seconds(self, tokens: int) -> float:
        """Return what a single training may take, in seconds: by the slowest of the recent ones."""
        return tokens * max(self._recent, default=self._cold or self._estimate)

    def usual_seconds(self, tokens: int) -> float:
        """Return what many trainings, or a long one, take in seconds: by the median of the recent ones."""
        known = list(self._recent)
        if self._estimate:
            known.append(self._estimate)
        return tokens * (statistics.median(known) if known else self._cold)
