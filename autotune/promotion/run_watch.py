"""One attempt at a full run, watched from evaluation to evaluation: where it ends, what looks wrong, how far it is."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from autotune.core.attributes import TrialAttributes
from autotune.core.files import read_lines
from autotune.core.metric import Metric
from autotune.core.promotion_results import EarlyWarning, FullRunRecord
from autotune.core.records import EvalPoint, TrainingKind, TrialStatus
from autotune.core.text import speed, time_of_day
from autotune.engine.assignment import Assignment
from autotune.engine.deadline import Deadline
from autotune.progress.observer import RunObserver
from autotune.promotion import early_warnings
from autotune.promotion.early_end import NEWS_FRAC, EarlyEnd, RunPace

_SAID_FRAC = 0.05
"""Share of the run after which the console gets a line."""
_SAID_EVERY_S = 300.0
"""Time after which the console gets a line in any case, seconds."""


class RunWatch:
    """The watch over one attempt.

    Args:
        assignment: What is trained; its trial holds what was decided and said in earlier attempts.
        reached: Tokens that earlier attempts reached.
        deadline: When everything must be done.
        sigma: Standard deviation of a loss between seeds in this study; None if it was not measured.
        observer: Told what happens.
    """

    def __init__(
        self, assignment: Assignment, reached: int, deadline: Deadline, sigma: float | None, observer: RunObserver
    ) -> None:
        self._number = assignment.trial.number
        self._attributes = TrialAttributes(assignment.trial)
        self._budget = assignment.budget_tokens
        self._deadline = deadline
        self._sigma = sigma
        self._observer = observer

        end_tokens = self._attributes.end_tokens
        self._is_moved = end_tokens is not None
        self._end = EarlyEnd(self._budget, end_tokens or self._budget)
        self._is_past_end = False
        self._said_stays = False
        self._said_end: int | None = None
        self._warnings = list(self._attributes.early_warnings)
        self._pace = RunPace(reached)
        self._speeds: list[float] = []
        self._times: list[float] = []

        # What is repeated from a checkpoint was said before.
        self._said_at = time.monotonic()
        self._said_part = self._part(reached)

    def evaluated(self, points: Sequence[EvalPoint]) -> int | None:
        """Take an evaluation: move the end if need be, warn, and report the progress.

        Args:
            points: Evaluations so far.

        Returns:
            Tokens at which the run shall end, None for its budget.
        """
        self._take(points[-1])
        self._decide_end(points)
        self._warn(points)
        self._say_progress(points[-1])

        return self._end.end_tokens if self._is_moved else None

    def live(self, summary: FullRunRecord, point: EvalPoint) -> FullRunRecord:
        """Return what a report shows of a run, with its pace and when it will be done.

        Args:
            summary: The same without these.
            point: Its last evaluation.
        """
        left_s = self._seconds_left(point)
        now = time.time()

        return replace(
            summary,
            status=str(TrialStatus.RUNNING),
            at=now,
            done_at=None if left_s is None else now + left_s,
            tokens_per_s=self._pace.tokens_per_s,
        )

    def _take(self, point: EvalPoint) -> None:
        """Take the time of an evaluation, and the speed before it: the trainer's own if it tells one."""
        self._pace.take(point, time.monotonic())

        latest = point.metrics.get("tokens_per_s", self._pace.latest)
        if latest is not None and 0 < latest < math.inf:
            self._speeds.append(latest)
        self._times.append(time.time())

    def _decide_end(self, points: Sequence[EvalPoint]) -> None:
        """Move the end if that is needed; say so once if the trainer does not keep to it."""
        tokens = [0, *(point.tokens_seen for point in points[-2:])]
        interval = tokens[-1] - tokens[-2]
        if self._end.decide(tokens[-1], interval, self._pace.tokens_per_s, self._deadline.seconds_left):
            self._is_moved = True
            with _unless_taken_over():
                self._attributes.end_tokens = self._end.end_tokens
            self._say_end()
        elif self._is_moved and self._end.stays and not self._said_stays:
            self._said_stays = True
            longer = self._observer.run.command("promote", "--tokens", str(2 * self._budget))
            self._observer.note(
                "full",
                f"there is more time by now, but the full run ends at {self._end.end_tokens:,} all the same, since its "
                f"learning rate may be coming down already; for a longer one, later: {longer}",
            )
        elif tokens[-1] > self._end.end_tokens and not self._is_past_end:
            self._is_past_end = True
            end = self._metric.budget(self._end.end_tokens)
            self._observer.note(
                "full",
                f"the trainer has gone past the {end} at which it was asked to end; "
                "if time runs out before it ends, its last checkpoint is kept",
            )

    def _say_end(self) -> None:
        end = self._end.end_tokens
        left_s = self._deadline.seconds_left

        # Small corrections are not told.
        if self._said_end is not None and abs(end - self._said_end) <= NEWS_FRAC * self._budget:
            return

        self._said_end = end
        why = "there is more time" if math.isinf(left_s) else f"that is what fits until {time_of_day(left_s)}"
        pace = speed(self._pace.tokens_per_s or 0.0, self._metric.budget_unit)
        budget = self._metric.budget(self._budget)
        line = f"the full run will end at {end:,} of {budget}: at {pace} {why}"
        self._observer.note("full", line)

    @property
    def _metric(self) -> Metric:
        return self._observer.board.metric

    def _warn(self, points: Sequence[EvalPoint]) -> None:
        """Store and tell what looks wrong, each kind of it once."""
        warning = self._warning(points)
        if warning is None:
            return

        self._warnings.append(warning)
        with _unless_taken_over():
            self._attributes.early_warnings = tuple(self._warnings)
        at = f"warning at {self._metric.budget(warning.tokens_seen)}"
        self._observer.note("warning", f"{at}: {warning.finding}; {warning.action}")

    def _warning(self, points: Sequence[EvalPoint]) -> EarlyWarning | None:
        """Return what looks wrong and was not said yet."""
        metric = self._metric
        checks: dict[str, Callable[[], EarlyWarning | None]] = {
            "divergence": lambda: early_warnings.divergence(points, metric),
            "plateau": lambda: early_warnings.plateau(points, self._budget, self._sigma, metric),
            "throttling": lambda: self._throttling(points[-1].tokens_seen),
            "skipped steps": lambda: early_warnings.skipped_optimizer_steps(points),
        }

        said = {warning.kind for warning in self._warnings}
        for kind, check in checks.items():
            warning = None if kind in said else check()
            if warning is not None:
                return warning

        return None

    def _throttling(self, tokens_seen: int) -> EarlyWarning | None:
        since = self._times[-1 - early_warnings.SLOW_IN_A_ROW :][0]
        slow_s = self._times[-1] - since
        if not early_warnings.is_slow(self._speeds, slow_s):
            return None

        stored = read_lines(self._observer.run.gpu)
        samples = [sample for sample in stored if sample.get("time", 0.0) >= self._times[0]]
        earlier = [sample for sample in samples if sample["time"] < since]
        now = samples[len(earlier) :]
        return early_warnings.throttling(tokens_seen, self._speeds, slow_s, earlier, now, self._metric.budget_unit)

    def _say_progress(self, point: EvalPoint) -> None:
        share = point.tokens_seen / self._ends_at
        left_s = self._seconds_left(point)
        self._observer.board.foresee(TrainingKind.FULL, self._number, share, left_s)

        part = self._part(point.tokens_seen)
        if part <= self._said_part and time.monotonic() - self._said_at < _SAID_EVERY_S:
            return

        self._said_at = time.monotonic()
        self._said_part = part
        line = f"full run {share:5.0%}  {self._metric.words(point.val_loss)}"
        if left_s is not None:
            line += f"  {speed(self._pace.tokens_per_s or 0.0, self._metric.budget_unit)}"
            line += f"  done about {time_of_day(left_s)}" if share < 1 else ""

        self._observer.say(line)

    def _part(self, tokens: int) -> int:
        """Return how many parts of the run are done; a part that lacks a few tokens by rounding counts."""
        return math.floor(tokens / self._ends_at / _SAID_FRAC + 0.01)

    def _seconds_left(self, point: EvalPoint) -> float | None:
        tokens_per_s = self._pace.tokens_per_s
        if tokens_per_s is None:
            return None

        return max(0, self._ends_at - point.tokens_seen) / tokens_per_s

    @property
    def _ends_at(self) -> int:
        return self._budget if self._is_past_end else self._end.end_tokens


def _unless_taken_over() -> contextlib.AbstractContextManager[None]:
    """Ignore that a peer has ended the trial meanwhile: the next report will show that."""
    from optuna.exceptions import UpdateFinishedTrialError

    return contextlib.suppress(UpdateFinishedTrialError)
