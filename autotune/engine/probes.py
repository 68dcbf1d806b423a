"""A short training and what it says about speed and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.core.records import EvalPoint


@dataclass(frozen=True)
class Probe:
    """What a short training measured.

    Args:
        tokens_per_s: Training speed, evaluation excluded; 0 if the trainer reports none.
        eval_s: Seconds of one evaluation; 0 if not reported.
        evaluations: Evaluations in a trial.
        seconds: Its duration by the trainer's clock, or by ours if not reported.
        tokens: Its tokens.
        peak_bytes: Peak memory; 0 if not reported.
        facts: What the trainer said about the run.
    """

    tokens_per_s: float
    eval_s: float
    evaluations: int
    seconds: float
    tokens: int
    peak_bytes: int
    facts: Mapping[str, Any]

    @property
    def speed(self) -> float:
        """Tokens per second, evaluations excluded if the trainer tells its speed."""
        return self.tokens_per_s or self.tokens / max(self.seconds, 1e-9)

    def seconds_for(self, tokens: int, evaluations: int | None = None) -> float:
        """Return the expected seconds of a training of so many tokens, evaluations included.

        Args:
            tokens: Of the training.
            evaluations: How many it has; None for as many as a trial.
        """
        if self.tokens_per_s > 0:
            evaluations_s = (self.evaluations if evaluations is None else evaluations) * self.eval_s
            return tokens / self.tokens_per_s + evaluations_s

        return self.seconds * tokens / self.tokens


@dataclass
class RunningProbe:
    """A probe in progress.

    Args:
        budget_tokens: Tokens of the training that it is the beginning of.
        last_point: Evaluations after which it ends; 0 if it trains its whole budget.
    """

    budget_tokens: int
    last_point: int
    _points: list[EvalPoint] = field(default_factory=list)
    _times: list[float] = field(default_factory=lambda: [time.monotonic()])

    @property
    def began(self) -> float:
        """Time at which it began, by the monotonic clock; the preparation of its data left out."""
        return self._times[0]

    @property
    def heard(self) -> float:
        """Time of the last sign of progress, by the monotonic clock."""
        return self._times[-1]

    @property
    def has_points(self) -> bool:
        """Whether there was an evaluation."""
        return bool(self._points)

    @property
    def has_pace(self) -> bool:
        """Whether two evaluations lie apart, so that they tell the pace without the start of the process."""
        return bool(self._points) and self._points[-1].tokens_seen > self._points[0].tokens_seen

    def prepare(self) -> None:
        """Begin to count from now on: what was done so far only prepared the training."""
        if not self._points:
            self._times = [time.monotonic()]

    def take(self, point: EvalPoint) -> bool:
        """Take an evaluation and return whether the training is to go on."""
        self._points.append(point)
        self._times.append(time.monotonic())

        return len(self._points) != self.last_point

    def seconds_for(self, tokens: int) -> float:
        """Return the seconds that a training of so many tokens takes at the pace so far; the least, before any pace.

        Args:
            tokens: Of the training.
        """
        if not self.has_pace:
            return (time.monotonic() - self.began) * tokens / self.budget_tokens
        return self._wall_s() * tokens / self._points[-1].tokens_seen

    def result(self, facts: Mapping[str, Any]) -> Probe:
        """Return what was measured, at least one evaluation having been taken.

        Args:
            facts: What the trainer said at its end.
        """
        tokens = self._points[-1].tokens_seen if self.last_point else self.budget_tokens

        # The first stretch includes warm-up: caches, kernels, the allocator.
        speeds = self._values("tokens_per_s")[1:] or self._values("tokens_per_s")

        return Probe(
            tokens_per_s=statistics.median(speeds) if speeds else 0.0,
            eval_s=statistics.median(self._values("eval_s") or [0.0]),
            evaluations=round(len(self._points) * self.budget_tokens / tokens),
            seconds=max(self._values("elapsed_s"), default=self._wall_s()),
            tokens=tokens,
            peak_bytes=int(max(self._values("peak_memory_bytes"), default=0)),
            facts=facts,
        )

    def _values(self, name: str) -> list[float]:
        return [point.metrics[name] for point in self._points if name in point.metrics]

    def _wall_s(self) -> float:
        """Return the seconds by our clock, without the start of its process where that can be told."""
        times = self._times
        last_tokens = self._points[-1].tokens_seen

        # From the first evaluation on, in proportion; with a single one only the whole is known.
        tokens = last_tokens - self._points[0].tokens_seen
        if not tokens:
            return times[-1] - times[0]
        return (times[-1] - times[1]) * last_tokens / tokens
