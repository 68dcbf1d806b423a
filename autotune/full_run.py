"""A full run: trained through faults, brought to its end before the deadline, and watched while it trains."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from autotune import early_warnings
from autotune.deadline import REPORT_S, Deadline, time_of_day
from autotune.early_end import EXPORT_S, NEWS_FRAC, EarlyEnd, RunPace
from autotune.early_warnings import EarlyWarning, rate
from autotune.event_loop import EventLoop
from autotune.listener import Listener
from autotune.queues import Assignment, Queue
from autotune.records import EvalPoint, TrialRecord, TrialStatus
from autotune.run_directory import read_lines
from autotune.space import flatten
from autotune.spec import StudySpec

# A full run begins if this share of it fits: it is then brought to an earlier end. With less, waiting is worth more.
ENOUGH_FRAC = 0.5
MAX_EVALUATIONS = 100
NUM_EVALS = "data.num_evals"
END_TOKENS, WARNINGS = "end_tokens", "early_warnings"
"""User attributes of a full run's trial, handed on to the attempts after it."""
# On the console a line for each twentieth of the run, and one every few minutes.
SAID_FRAC = 0.05
SAID_EVERY_S = 300.0
# What may be a fault of the machine, and is worth another attempt.
AGAIN = (TrialStatus.CRASHED, TrialStatus.OUT_OF_MEMORY, TrialStatus.INTERRUPTED)


def evaluations(spec: StudySpec, tokens: int) -> dict[str, int]:
    """Returns how often a full run is evaluated, under the config path that says so: as densely as the trials.

    Args:
        spec: The study; `promote.num_evals` overrides it.
        tokens: Length of the full run.
    """
    of_a_trial = flatten(spec.base).get(NUM_EVALS)
    if not isinstance(of_a_trial, int) or of_a_trial < 1:
        return {}
    as_densely = min(MAX_EVALUATIONS, of_a_trial * tokens // spec.budget.tokens)
    return {NUM_EVALS: spec.promote.num_evals or max(of_a_trial, as_densely)}


class FullRun:
    """Trains one full run, whatever became of it before, and keeps what a report shows of it.

    Args:
        queue: Holds it, as a trial and its repetitions.
        params: Its settings by dotted path.
        folder: Where its checkpoints, weights and sample are.
        deadline: When everything must be done.
        listener: Told what happens.
        sigma: Standard deviation of a loss between seeds in this study; None if it was not measured.
        keep: Takes what a report shows of it, JSON-able, while it trains and when it has ended.
    """

    def __init__(
        self,
        queue: Queue,
        params: Mapping[str, Any],
        folder: Path,
        deadline: Deadline,
        listener: Listener,
        sigma: float | None,
        keep: Callable[[dict[str, Any]], None],
    ) -> None:
        self.queue = queue
        self.deadline = deadline
        self.listener = listener
        self.sigma = sigma
        self._params = dict(params)
        self._folder = folder
        self._keep = keep
        self._watched = _Watched(queue.budget_tokens)
        queue.watch = self.evaluated

    def train(self, loop: EventLoop) -> None:
        """Trains it to its end, from its last checkpoint if there is one.

        After a fault of the machine it is tried again as long as each attempt gets further than those before it, and
        once more each time that this is called.

        Args:
            loop: What trains.

        Raises:
            UserError: As `EventLoop.run`.
        """
        self.queue.recover()
        again = self._attempts()[-1]
        try:
            while True:
                if again.status in AGAIN:
                    self._try_again(again)
                if (waiting := self._attempts()[-1]).status is TrialStatus.WAITING:
                    self._keep(self._summary(waiting, ()))
                loop.run(self.queue, self._may_start)
                again = self._attempts()[-1]
                if loop.stop.level or again.status is not TrialStatus.CRASHED or not self._got_further():
                    break
        finally:
            last = self._attempts()[-1]
            self._keep(self._summary(last, last.result.points if last.result else ()))
        if last.status is TrialStatus.WAITING and not loop.stop.level:
            self._say_no_time(has_begun=last.retry_of is not None)

    def _attempts(self) -> list[TrialRecord]:
        return [record for record in self.queue.records() if dict(record.params) == self._params]

    def _try_again(self, ended: TrialRecord) -> None:
        cause = f": {ended.result.cause}" if ended.result and ended.result.cause else ""
        again = "it is tried again, from its last checkpoint if it left one"
        self.listener.note("full", f"the full run ended: {ended.status}{cause}; {again}")
        self.queue.try_again(ended.number)

    def _got_further(self) -> bool:
        *before, last = self._attempts()
        return _reached([last]) > _reached(before)

    def _may_start(self, training_s: float) -> bool:
        attempts, budget = self._attempts(), self.queue.budget_tokens
        end = self._stored(attempts[-1].number).get(END_TOKENS) or budget
        left = max(0.0, end - _reached(attempts)) / budget
        return self.deadline.has_time(lambda: REPORT_S + EXPORT_S)(ENOUGH_FRAC * left * training_s)

    def _say_no_time(self, has_begun: bool) -> None:
        what = "to go on with the full run" if has_begun else f"for the full run, not even for {ENOUGH_FRAC:.0%} of it"
        self.listener.note("full", f"no time left {what}; later: autotune promote {self.queue.study.spec.name}")

    # --- while it trains ---

    def evaluated(self, assignment: Assignment, points: Sequence[EvalPoint]) -> int | None:
        """Takes an evaluation: decides on the end, warns, says how far it is, and keeps it for the report.

        Args:
            assignment: What is trained.
            points: Its evaluations so far.

        Returns:
            Tokens at which it shall end, None for its budget.
        """
        if len(points) == 1:
            earlier = [attempt for attempt in self._attempts() if attempt.number != assignment.trial.number]
            self._watched = _Watched(assignment.budget_tokens, assignment.trial.user_attrs, _reached(earlier))
        watched = self._watched
        watched.take(points[-1])
        if watched.decide(points, self.deadline.seconds_left):
            self._store(assignment, END_TOKENS, watched.end.end_tokens)
            self._say_end()
        elif watched.is_news_that_it_trains_on(points[-1]):
            self.listener.note(
                "full",
                f"the trainer trains on beyond the {watched.end.end_tokens:,} tokens at which it was asked to end; "
                "if the time is up before it ends, its last checkpoint is kept",
            )
        if (warning := self._warning(points)) is not None:
            watched.warnings.append(warning.to_json())
            self._store(assignment, WARNINGS, watched.warnings)
            at = f"warning at {warning.tokens_seen:,} tokens"
            self.listener.note("warning", f"{at}: {warning.finding}; {warning.action}")
        self._say_progress(points[-1])
        record = next(record for record in self.queue.records() if record.number == assignment.trial.number)
        self._keep(self._summary(record, points) | watched.live(points[-1]))
        return watched.end.end_tokens if watched.is_moved else None

    def _store(self, assignment: Assignment, name: str, value: Any) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        with contextlib.suppress(UpdateFinishedTrialError):  # taken over by a peer: the next report will show that
            assignment.trial.set_user_attr(name, value)

    def _say_end(self) -> None:
        watched, budget = self._watched, self.queue.budget_tokens
        end, speed, left_s = watched.end.end_tokens, watched.pace.tokens_per_s, self.deadline.seconds_left
        # Small corrections are made without a word.
        if watched.said_end is not None and abs(end - watched.said_end) <= NEWS_FRAC * budget:
            return
        watched.said_end = end
        why = f"at {rate(speed or 0.0)} "
        why += "there is more time" if left_s == float("inf") else f"that is what fits until {_clock(left_s)}"
        self.listener.note("full", f"the full run will end at {end:,} of {budget:,} tokens: {why}")

    def _warning(self, points: Sequence[EvalPoint]) -> EarlyWarning | None:
        """Returns what looks wrong and was not said yet."""
        watched = self._watched
        checks: dict[str, Callable[[], EarlyWarning | None]] = {
            "divergence": lambda: early_warnings.divergence(points),
            "plateau": lambda: early_warnings.plateau(points, self.queue.budget_tokens, self.sigma),
            "throttling": lambda: self._throttling(points[-1].tokens_seen),
            "skipped steps": lambda: early_warnings.skipped_steps(points),
        }
        said = {warning["kind"] for warning in watched.warnings}
        return next((found for kind, check in checks.items() if kind not in said and (found := check())), None)

    def _throttling(self, tokens_seen: int) -> EarlyWarning | None:
        speeds, times = self._watched.speeds, self._watched.times
        if not early_warnings.is_slow(speeds):
            return None
        since = times[-1 - early_warnings.IN_A_ROW]
        samples = [sample for sample in read_lines(self.queue.run.gpu) if sample.get("time", 0.0) >= times[0]]
        now = [sample for sample in samples if sample["time"] >= since]
        return early_warnings.throttling(tokens_seen, speeds, samples[: len(samples) - len(now)], now)

    def _say_progress(self, point: EvalPoint) -> None:
        watched = self._watched
        share = watched.share(point)
        is_due = time.monotonic() - watched.said_at >= SAID_EVERY_S or share - watched.said_share >= SAID_FRAC
        if not is_due and share < 1:
            return
        watched.said_at, watched.said_share = time.monotonic(), share
        line = f"full run {share:5.0%}  loss {point.val_loss:.4f}"
        if (speed := watched.pace.tokens_per_s) is not None:
            line += f"  {rate(speed)}"
            line += f"  done about {_clock(watched.seconds_left(point) or 0.0)}" if share < 1 else ""
        self.listener.say(line)

    # --- what is kept ---

    def _stored(self, number: int) -> Mapping[str, Any]:
        return dict(self.queue.optuna_study.get_trials(deepcopy=False)[number].user_attrs)

    def _summary(self, record: TrialRecord, points: Sequence[EvalPoint]) -> dict[str, Any]:
        stored = self._stored(record.number)
        kept = {"end_tokens": stored.get(END_TOKENS), "warnings": list(stored.get(WARNINGS, []))}
        return full_summary(record, self.queue.budget_tokens, self._folder, points) | kept


class _Watched:
    """One attempt at a full run, as seen at its last evaluation.

    Args:
        budget_tokens: Tokens asked for.
        stored: What earlier attempts have left: where it shall end, and what was warned of.
        reached: Tokens that they reached.
    """

    def __init__(self, budget_tokens: int, stored: Mapping[str, Any] | None = None, reached: int = 0) -> None:
        kept = stored or {}
        self.end = EarlyEnd(budget_tokens, kept.get(END_TOKENS) or budget_tokens)
        self.is_moved = END_TOKENS in kept
        self.pace = RunPace(reached)
        self.warnings: list[dict[str, Any]] = list(kept.get(WARNINGS, []))
        self.speeds: list[float] = []
        self.times: list[float] = []
        self.said_end: int | None = None
        self._is_past_end = False
        self.said_at, self.said_share = time.monotonic(), 0.0

    def take(self, point: EvalPoint) -> None:
        """Takes the time of an evaluation, and the speed before it: the trainer's own if it tells one."""
        self.pace.take(point, time.monotonic())
        speed = point.metrics.get("tokens_per_s", self.pace.latest)
        if speed is not None and 0 < speed < float("inf"):
            self.speeds.append(speed)
        self.times.append(time.time())

    def decide(self, points: Sequence[EvalPoint], seconds_left: float) -> bool:
        """Decides on the end, and returns whether it was moved."""
        tokens = [0, *(point.tokens_seen for point in points[-2:])]
        was_moved = self.end.decide(tokens[-1], tokens[-1] - tokens[-2], self.pace.tokens_per_s, seconds_left)
        self.is_moved |= was_moved
        return was_moved

    def is_news_that_it_trains_on(self, point: EvalPoint) -> bool:
        """Whether the trainer has gone past the end that it was asked for; True once."""
        is_news = not self._is_past_end and point.tokens_seen > self.end.end_tokens
        self._is_past_end |= is_news
        return is_news

    def share(self, point: EvalPoint) -> float:
        """How much of the run is done."""
        return point.tokens_seen / self._ends_at

    def seconds_left(self, point: EvalPoint) -> float | None:
        """Seconds until its end by the recent pace; None if that is not known."""
        speed = self.pace.tokens_per_s
        return None if speed is None else (self._ends_at - point.tokens_seen) / speed

    @property
    def _ends_at(self) -> int:
        return self.end.budget_tokens if self._is_past_end else self.end.end_tokens

    def live(self, point: EvalPoint) -> dict[str, Any]:
        """Returns what is known of a run only while it trains; times are Unix seconds."""
        left_s, now = self.seconds_left(point), time.time()
        return {
            "status": str(TrialStatus.RUNNING),
            "at": now,
            "done_at": None if left_s is None else now + left_s,
            "tokens_per_s": self.pace.tokens_per_s,
        }


def full_summary(record: TrialRecord, tokens: int, folder: Path, points: Sequence[EvalPoint]) -> dict[str, Any]:
    """Returns what a report says of a full run, JSON-able.

    Args:
        record: Its latest attempt.
        tokens: The length that was asked for.
        folder: Where its checkpoints, weights and sample are.
        points: Evaluations of the attempt.
    """
    result = record.result
    facts: Mapping[str, Any] = result.facts if result else {}
    sample = folder / "sample.txt"
    last = points[-1] if points else None
    return {
        "status": str(record.status),
        "cause": result.cause if result else "",
        "trial": record.arm,
        "tokens": tokens,
        "tokens_seen": last.tokens_seen if last else 0,
        "folder": str(folder),
        "seconds": result.seconds if result else 0.0,
        "val_loss": last.val_loss if last else None,
        **({name: last.metrics[name] for name in ("val_accuracy", "val_bpb") if name in last.metrics} if last else {}),
        "points": [point.to_json() for point in points],
        "weights": facts.get("weights_path", ""),
        "export": facts.get("export_path", ""),
        "sample": sample.read_text(encoding="utf-8") if sample.exists() else "",
    }


def _reached(attempts: Sequence[TrialRecord]) -> int:
    """Returns the most tokens at which one of the attempts was evaluated."""
    return max((max(attempt.values, default=0) for attempt in attempts), default=0)


def _clock(seconds: float) -> str:
    return time_of_day(seconds, datetime.now())
