"""A full run: trained through faults, brought to its end before the deadline, and watched while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune.core.attributes import TrialAttributes
from autotune.core.config_paths import flatten
from autotune.core.promotion_results import FullRunRecord
from autotune.core.records import EvalPoint, TrialRecord, TrialStatus
from autotune.engine.assignment import Assignment
from autotune.engine.deadline import REPORT_S, Deadline
from autotune.engine.event_loop import EventLoop
from autotune.engine.queue import Queue
from autotune.progress.observer import RunObserver
from autotune.promotion.early_end import EXPORT_S
from autotune.promotion.run_length import dense_evaluations
from autotune.promotion.run_watch import RunWatch
from autotune.study.study_file import Study

_ENOUGH_FRAC = 0.5
"""Smallest share of a full run that must fit for it to begin; it is then brought to an earlier end. If less fits, it is
better to wait for more time."""
_AGAIN = (TrialStatus.CRASHED, TrialStatus.OUT_OF_MEMORY, TrialStatus.INTERRUPTED)
"""Ends of a run that may be a fault of the machine and are worth another attempt."""


def evaluations(study: Study, tokens: int) -> dict[str, int]:
    """Return how often a full run is evaluated, under the config path that says so: as densely as the trials.

    Args:
        study: The study; its `promote.num_evals` overrides it.
        tokens: Length of the full run.

    Returns:
        Nothing if the trainer has no such setting, or decides itself.
    """
    spec = study.spec
    path = study.trainer.path_of("num_evals")
    of_a_trial = None if path is None else flatten(spec.base).get(path)
    if path is None or not isinstance(of_a_trial, int) or of_a_trial < 1:
        return {}

    return {path: spec.promote.num_evals or dense_evaluations(spec, of_a_trial, tokens)}


class FullRun:
    """One full run, which is trained whatever became of it before, and what a report shows of it.

    Args:
        queue: Holds it, as a trial and its repetitions.
        params: Its settings by dotted path.
        folder: Where its checkpoints, weights and sample are.
        deadline: When everything must be done.
        observer: Told what happens.
        sigma: Standard deviation of a loss between seeds in this study; None if it was not measured.
        keep: Takes what a report shows of it, while it trains and when it has ended.
        fetch: Fetches what another machine has trained of it, and returns what there is to say; it takes what is to be
            called now and then meanwhile.
    """

    def __init__(
        self,
        queue: Queue,
        params: Mapping[str, Any],
        folder: Path,
        deadline: Deadline,
        observer: RunObserver,
        sigma: float | None,
        keep: Callable[[FullRunRecord], None],
        fetch: Callable[[Callable[[], None]], str] | None = None,
    ) -> None:
        self.queue = queue
        self.deadline = deadline
        self.observer = observer
        self.sigma = sigma
        self._params = dict(params)
        self._folder = folder
        self._keep = keep
        self._fetch = fetch
        self._watch: RunWatch | None = None

    def train(self, loop: EventLoop) -> TrialStatus:
        """Train it to its end, from its last checkpoint if there is one.

        After a fault of the machine it is tried again as long as each attempt gets further than those before it, and
        once more each time that this is called.

        Args:
            loop: What trains.

        Returns:
            How its latest attempt stands.

        Raises:
            UserError: As `EventLoop.run`.
        """
        self.queue.recover()
        again = self._attempts()[-1]
        self._say_if_done(again)

        try:
            while True:
                if again.status in _AGAIN:
                    self._try_again(again)
                if self._attempts()[-1].status is TrialStatus.WAITING:
                    self._keep(self._latest_summary())
                loop.run(self.queue, self._may_start, watch=self.evaluated, before=self._fetched)
                again = self._attempts()[-1]
                if loop.stop.level or again.status is not TrialStatus.CRASHED or not self._got_further():
                    break
        finally:
            self._keep(self._latest_summary())

        last = self._attempts()[-1]
        if last.status is TrialStatus.WAITING and not loop.stop.level:
            self._say_no_time(has_begun=last.retry_of is not None)
        if last.status is TrialStatus.DIVERGED:
            self._say_divergence(last)
        return last.status

    def _fetched(self, assignment: Assignment) -> None:
        """Fetch the checkpoints of another machine, once this one is to train: until then they may become more."""
        if self._fetch is not None and (said := self._fetch(lambda: self.queue.beat([assignment.trial]))):
            self.observer.note("full", said)

    def _attempts(self) -> list[TrialRecord]:
        return [record for record in self.queue.records() if dict(record.params) == self._params]

    def _say_if_done(self, last: TrialRecord) -> None:
        """Say that a run that was brought to an earlier end is not trained again."""
        seen = _reached([last])
        budget = self.queue.budget_tokens
        if last.status is TrialStatus.FINISHED and seen < budget:
            size = self.observer.board.metric.budget(budget)
            ended = f"the full run of {size} is finished; it ended at {seen:,}, which was all that fitted"
            longer = self.queue.run.command("promote", "--tokens", str(2 * budget))
            self.observer.say(f"{ended}; for a longer one: {longer}")

    def _say_divergence(self, last: TrialRecord) -> None:
        """Say why a run that diverged is not trained again, and what helps."""
        cause = last.result.cause if last.result else "diverged"
        self.observer.say(
            f"the full run {cause}, and would do so again; train another trial (--trial), or a copy of "
            f"{self.queue.run.best_config} with a lower learning rate (autotune train)"
        )

    def _try_again(self, ended: TrialRecord) -> None:
        cause = f": {ended.result.cause}" if ended.result and ended.result.cause else ""
        again = "it is tried again, from its last checkpoint if it left one"
        self.observer.note("full", f"the full run ended: {ended.status}{cause}; {again}")

        self.queue.try_again(ended.number)

    def _got_further(self) -> bool:
        *before, last = self._attempts()
        return _reached([last]) > _reached(before)

    def _may_start(self, training_s: float) -> bool:
        attempts = self._attempts()
        budget = self.queue.budget_tokens
        end = self._stored(attempts[-1].number).end_tokens or budget
        left_frac = max(0.0, end - _reached(attempts)) / budget

        has_time = self.deadline.has_time(lambda: REPORT_S + EXPORT_S)
        return has_time(_ENOUGH_FRAC * left_frac * training_s)

    def _say_no_time(self, has_begun: bool) -> None:
        what = f"for the full run, not even for {_ENOUGH_FRAC:.0%} of it"
        if has_begun:
            what = "to resume the full run"
        self.observer.note("full", f"no time is left {what}; to do that later: {self.queue.run.command('promote')}")

    def evaluated(self, assignment: Assignment, points: Sequence[EvalPoint]) -> int | None:
        """Take an evaluation: have it watched, and keep it for the report.

        Args:
            assignment: What is trained.
            points: Its evaluations so far.

        Returns:
            Tokens at which it shall end, None for its budget.
        """
        attempts = {record.number: record for record in self.queue.records()}
        attempt = attempts.pop(assignment.trial.number)
        if len(points) == 1 or self._watch is None:
            same_run = [other for other in attempts.values() if dict(other.params) == dict(assignment.params)]
            self._watch = RunWatch(assignment, _reached(same_run), self.deadline, self.sigma, self.observer)

        end = self._watch.evaluated(points)
        self._keep(self._watch.live(self._summary(attempt, points), points[-1]))

        return end

    def _stored(self, number: int) -> TrialAttributes:
        return TrialAttributes(self.queue.optuna_study.get_trials(deepcopy=False)[number])

    def _latest_summary(self) -> FullRunRecord:
        """Return what a report shows while none of its attempts trains."""
        *before, last = self._attempts()
        points = last.result.points if last.result else ()

        # An attempt that has not been evaluated goes on from the checkpoint of those before it.
        for attempt in reversed(before):
            points = points or (attempt.result.points if attempt.result else ())

        return self._summary(last, points)

    def _summary(self, record: TrialRecord, points: Sequence[EvalPoint]) -> FullRunRecord:
        stored = self._stored(record.number)
        summary = _full_summary(record, self.queue.budget_tokens, self._folder, points)
        return replace(summary, end_tokens=stored.end_tokens, warnings=stored.early_warnings)


def _full_summary(record: TrialRecord, tokens: int, folder: Path, points: Sequence[EvalPoint]) -> FullRunRecord:
    """Return what a report says of a full run.

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
    metrics = last.metrics if last else {}

    return FullRunRecord(
        status=str(record.status),
        cause=result.cause if result else "",
        trial=record.arm,
        tokens=tokens,
        tokens_seen=last.tokens_seen if last else 0,
        folder=str(folder),
        seconds=result.seconds if result else 0.0,
        val_loss=last.val_loss if last else None,
        val_accuracy=metrics.get("val_accuracy"),
        val_bpb=metrics.get("val_bpb"),
        points=tuple(points),
        weights=facts.get("weights_path", ""),
        export=facts.get("export_path", ""),
        sample=sample.read_text(encoding="utf-8") if sample.exists() else "",
    )


def _reached(attempts: Sequence[TrialRecord]) -> int:
    """Return the most tokens at which one of the attempts was evaluated; 0 if none was."""
    return max((tokens for attempt in attempts for tokens in attempt.values), default=0)
