"""When a long run must end to be over before its deadline, with a model whose schedule was completed and not cut."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from autotune.core.records import EvalPoint
from autotune.engine.deadline import REPORT_S

_RECENT = 3
"""Number of evaluations whose pace is taken for the rest of a run. With this few a slower machine shows soon, and a
short interruption is forgotten soon."""
EXPORT_S = 15.0
"""Time kept for the trainer to write its model once it has trained, seconds."""
END_MARGIN = 1.03
"""Factor by which the rest of a run may take longer than its recent pace says. A run whose end can be moved needs no
more, also before it begins."""
MUCH_FRAC = 0.2
"""Share of the budget that must fit beside an end that stays for a person to be told that it does."""
NEWS_FRAC = 0.02
"""Smallest change of the end that is told to a person, and smallest move to a later end, as a share of the budget."""


class RunPace:
    """How fast a run has been lately: by the clock, so evaluations and checkpoints count.

    Args:
        reached: Tokens that earlier attempts at the run reached. What a trainer reports of them may come from its
            checkpoint, at once.
    """

    def __init__(self, reached: int = 0) -> None:
        self._reached = reached
        self._last: tuple[EvalPoint, float] | None = None
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        self.latest: float | None = None
        """Tokens per second before the last evaluation; None if that was not measured."""

    def take(self, point: EvalPoint, now: float) -> None:
        """Take an evaluation into account.

        Args:
            point: The evaluation.
            now: When it came, by a monotonic clock, seconds.
        """
        last = self._last
        self._last = (point, now)
        self.latest = None
        # The time before the first evaluation also went into loading and compiling.
        if last is None:
            return

        before, at = last
        tokens = point.tokens_seen - before.tokens_seen
        seconds = now - at
        claimed_s = point.metrics.get("elapsed_s", 0.0) - before.metrics.get("elapsed_s", 0.0)

        # What a trainer repeats from its checkpoint comes much faster than it was trained, so it does not count.
        was_trained = before.tokens_seen > self._reached or 0 < claimed_s < 2 * seconds
        if tokens > 0 and seconds > 0 and (was_trained or not self._reached):
            self._recent.append((tokens, seconds))
            self.latest = tokens / seconds

    @property
    def tokens_per_s(self) -> float | None:
        """The pace of the last evaluations; None before two of them."""
        if not self._recent:
            return None

        tokens = sum(tokens for tokens, _ in self._recent)
        seconds = sum(seconds for _, seconds in self._recent)
        return tokens / seconds


@dataclass
class EarlyEnd:
    """The number of tokens at which a run ends, moved as its pace requires.

    The end comes sooner when the rest would not fit, as far as needed and as often as needed. It comes later again when
    much more fits, but only in the first half of the run: the last part of the trainer's schedule lets the learning
    rate decay, and that must not begin twice.

    Args:
        budget_tokens: Tokens that were asked for.
        end_tokens: Tokens at which it ends as things stand.
    """

    budget_tokens: int
    end_tokens: int
    stays: bool = False
    """Whether much more fits by now, and it is too late to end later."""

    def decide(self, seen: int, interval_tokens: int, tokens_per_s: float | None, seconds_left: float) -> bool:
        """Move the end if it must or should be moved, and return whether it was.

        Args:
            seen: Tokens trained.
            interval_tokens: Tokens between two evaluations; the end is not moved nearer than that.
            tokens_per_s: The pace; None if it is not known yet.
            seconds_left: Until the deadline; infinite without one.
        """
        if tokens_per_s is None or seen >= self.end_tokens:
            return False

        room_s = seconds_left - REPORT_S - EXPORT_S
        fitting = seen + tokens_per_s * room_s
        fitting_safely = seen + tokens_per_s * room_s / END_MARGIN
        # The end stays below the budget even if more fits, since a trainer takes only such an end for an early one.
        end = _rounded_down(min(fitting_safely, self.budget_tokens - 1), self.budget_tokens)

        is_sooner = fitting < self.end_tokens and end - seen >= interval_tokens
        is_in_time = 2 * seen < self.end_tokens
        is_later = is_in_time and end - self.end_tokens > NEWS_FRAC * self.budget_tokens
        self.stays = not is_in_time and end - self.end_tokens > MUCH_FRAC * self.budget_tokens
        if is_sooner or is_later:
            self.end_tokens = end

        return is_sooner or is_later


def _rounded_down(tokens: float, budget_tokens: int) -> int:
    """Return a number of tokens that a person can read, lower by at most a hundredth of the budget."""
    unit: int = 10 ** max(0, len(str(budget_tokens)) - 3)
    return math.floor(tokens / unit) * unit
