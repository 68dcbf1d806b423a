"""When a long run must end to be over before its deadline, with a model that was brought to its end and not cut."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from autotune.core.records import EvalPoint
from autotune.engine.deadline import REPORT_S

# Evaluations whose pace is taken for the rest of a run: a slower machine shows after a few, a hiccup is forgotten soon.
RECENT = 3
# What a trainer may take to write its model once it has trained, in seconds.
EXPORT_S = 15.0
# The rest of a run may take this much longer than its recent pace says.
END_MARGIN = 1.03
# A change of the end by less than this share of the budget is no news, and nothing is gained by a later one.
NEWS_FRAC = 0.02


class RunPace:
    """How fast a run has been lately: by the clock, so evaluations and checkpoints count.

    Args:
        reached: Tokens that earlier attempts at the run reached. What a trainer reports of them may come from its
            checkpoint, at once.
    """

    def __init__(self, reached: int = 0) -> None:
        self._reached = reached
        self._last: tuple[EvalPoint, float] | None = None
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self.latest: float | None = None
        """Tokens per second before the last evaluation; None if that was not measured."""

    def take(self, point: EvalPoint, now: float) -> None:
        """Take an evaluation into account.

        Args:
            point: The evaluation.
            now: When it came, by a monotonic clock, seconds.
        """
        last, self._last, self.latest = self._last, (point, now), None
        if last is None:  # the time before the first one went into loading and compiling, too
            return
        before, at = last
        tokens, seconds = point.tokens_seen - before.tokens_seen, now - at
        claimed_s = point.metrics.get("elapsed_s", 0.0) - before.metrics.get("elapsed_s", 0.0)
        was_trained = before.tokens_seen > self._reached or 0 < claimed_s < 2 * seconds
        if tokens > 0 and seconds > 0 and (was_trained or not self._reached):
            self._recent.append((tokens, seconds))
            self.latest = tokens / seconds

    @property
    def tokens_per_s(self) -> float | None:
        """The pace of the last evaluations; None before two of them."""
        if not self._recent:
            return None
        return sum(tokens for tokens, _ in self._recent) / sum(seconds for _, seconds in self._recent)


@dataclass
class EarlyEnd:
    """Decides at how many tokens a run ends.

    The end comes sooner when the rest would not fit, by as much as it takes and as often as it takes. It comes later
    again when much more fits, but only in the first half of the run: by the trainer's schedule the last part is the one
    that brings the model to its end, and that is not begun twice.

    Args:
        budget_tokens: Tokens that were asked for.
        end_tokens: Tokens at which it ends as things stand.
    """

    budget_tokens: int
    end_tokens: int

    def decide(self, seen: int, interval_tokens: int, tokens_per_s: float | None, seconds_left: float) -> bool:
        """Moves the end if it must or should be moved, and returns whether it was.

        Args:
            seen: Tokens trained.
            interval_tokens: Tokens between two evaluations: an end nearer than that is no use.
            tokens_per_s: The pace; None if it is not known yet.
            seconds_left: Until the deadline; infinite without one.
        """
        if tokens_per_s is None or seen >= self.end_tokens:
            return False
        room_s = seconds_left - REPORT_S - EXPORT_S
        # Below the budget whatever fits: that is what "end there" means to a trainer.
        end = _rounded_down(min(seen + tokens_per_s * room_s / END_MARGIN, self.budget_tokens - 1), self.budget_tokens)
        sooner = seen + tokens_per_s * room_s < self.end_tokens and end - seen >= interval_tokens
        later = end - self.end_tokens > NEWS_FRAC * self.budget_tokens and 2 * seen < self.end_tokens
        if sooner or later:
            self.end_tokens = end
        return sooner or later


def _rounded_down(tokens: float, budget_tokens: int) -> int:
    """Return a number of tokens that a person can read, less by a hundredth of the budget at the most."""
    unit: int = 10 ** max(0, len(str(budget_tokens)) - 3)
    return math.floor(tokens / unit) * unit
