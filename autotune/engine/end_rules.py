"""When a training must end before its budget: divergence, a pruner, the user, the deadline, a hang."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from autotune.core.metric import Metric
from autotune.core.records import EvalPoint, TrialStatus
from autotune.core.text import duration
from autotune.engine.deadline import REPORT_S, Deadline, StopRequest
from autotune.engine.running import Ending, Running
from autotune.engine.worker import Failed
from autotune.search.pruning import should_continue
from autotune.study.spec import StudySpec

_DIVERGENCE_FACTOR = 2.0
"""A loss of this many times a trial's first is taken as divergence. Its own best says nothing: an error that falls to a
ten thousandth may double without harm. A trainer that knows its metric better says so itself (`FloatingPointError`).
Losses below zero have no factor, nor has what is to be maximised."""
FIRST_EVALUATION_ALLOWANCE = 3
"""Times the usual patience that a first evaluation gets: a corpus may have to be fetched and kernels to be compiled."""


@dataclass(frozen=True)
class EndRules:
    """Says how and why trainings must end.

    Args:
        spec: The study.
        seeds: Seeds that each trial is trained with.
        stop: Whether the user wants the run to end.
        deadline: When everything must be done.
        metric: What the trainer reports.
    """

    spec: StudySpec
    seeds: int
    stop: StopRequest
    deadline: Deadline
    metric: Metric

    def after_evaluation(self, running: Running, point: EvalPoint) -> Ending | None:
        """Return how a training must end after an evaluation, None if it goes on.

        Args:
            running: The training, without that evaluation.
            point: The evaluation, already reported to Optuna.
        """
        at = f"at {self.metric.budget(point.tokens_seen)}"
        first = running.points[0].val_loss if running.points else math.inf
        if not self.metric.maximize and 0 < _DIVERGENCE_FACTOR * first < point.val_loss:
            words = self.metric.words
            cause = f"diverged {at}: {words(point.val_loss)} after {self.metric.number(first)} at first"
            return Ending(TrialStatus.DIVERGED, cause)

        budget_tokens = running.assignment.budget_tokens
        if point.tokens_seen >= budget_tokens or point.tokens_seen == running.end_tokens:
            return None
        if (ending := self.must_stop(running, at)) is not None:
            return ending
        # Of several seeds the pruner is asked after each whole seed.
        if self.seeds == 1 and self._is_pruned(running, point.tokens_seen):
            return Ending(TrialStatus.PRUNED, f"behind the other trials {at} ({self.metric.words(point.val_loss)})")
        return None

    def after_seed(self, running: Running, loss: float) -> Ending | None:
        """Return how a trial ends after one of its seeds, None if the next seed is to be trained.

        Args:
            running: The training, the seed's curve included.
            loss: The seed's final loss, already reported to Optuna.
        """
        if not running.assignment.seeds_left:
            return Ending(TrialStatus.FINISHED)

        at = f"after {len(running.curves)} of {self.seeds} seeds"
        if (ending := self.must_stop(running, at)) is not None:
            return ending
        if self._is_pruned(running, running.assignment.budget_tokens):
            return Ending(TrialStatus.PRUNED, f"behind the best trial {at} ({self.metric.words(loss)})")
        return None

    def must_stop(self, running: Running, at: str) -> Ending | None:
        """Return how a training ends if the user or the deadline wants that, else None.

        Args:
            running: The training.
            at: Where it stands, in words.
        """
        if running.is_unwanted:
            return Ending(TrialStatus.STOPPED, f"stopped {at} {self.stop.USER}")
        if self.stop.level:
            return Ending(TrialStatus.INTERRUPTED, f"stopped {at} {self.stop.by}")
        if self.deadline.seconds_left < REPORT_S:
            return Ending(TrialStatus.INTERRUPTED, f"stopped {at}: the time was up")
        return None

    def at_once(self, running: Running) -> Ending | None:
        """Return how a training ends without waiting for its next evaluation, None if it may be waited for."""
        if self.stop.level >= 2:
            return Ending(TrialStatus.INTERRUPTED, f"stopped at once {self.stop.by}")
        if self.deadline.seconds_left < REPORT_S / 2:
            return Ending(TrialStatus.INTERRUPTED, "stopped: the time was up")

        if self.stop.level and running.is_preparing:
            # There is no evaluation to wait for, and what was prepared is kept.
            return Ending(TrialStatus.INTERRUPTED, f"stopped {self.stop.by} while its data was prepared")

        silent_s = time.monotonic() - running.heard
        if silent_s > self._patience_s(running):
            # One that was told to stop has its ending, however slowly it stops.
            return running.ending or Ending(TrialStatus.CRASHED, f"no progress for {duration(silent_s)}; stopped")
        return None

    def _patience_s(self, running: Running) -> float:
        allowance = 1 if running.points else FIRST_EVALUATION_ALLOWANCE
        return allowance * self.spec.limits.hang_s

    def _is_pruned(self, running: Running, tokens: int) -> bool:
        pruner = self.spec.pruner
        may_continue = should_continue(
            running.assignment.trial,
            tokens,
            pruner_name=pruner.name,
            audit_frac=pruner.audit_frac,
            seed=self.spec.seed,
        )

        return not may_continue


def as_unwanted(ending: Ending) -> Ending:
    """Return how a training ends that a person has stopped, and that then came to nothing before it could stop.

    Args:
        ending: How it would end otherwise; what says something about its settings stays.
    """
    if ending.status not in (TrialStatus.INTERRUPTED, TrialStatus.CRASHED):
        return ending
    return Ending(TrialStatus.STOPPED, f"stopped {StopRequest.USER}; before its next evaluation: {ending.cause}")


def not_finite(point: EvalPoint, metric: Metric) -> Ending | None:
    """Return how a training ends whose loss is no number, None if it is one.

    Args:
        point: An evaluation.
        metric: What the trainer reports.
    """
    if math.isfinite(point.val_loss):
        return None
    at = f"at {metric.budget(point.tokens_seen)}"
    value = metric.value(point.val_loss)
    return Ending(TrialStatus.DIVERGED, f"diverged {at}: the {metric.name} is {value} (learning rate too high?)")


def ending_of(failed: Failed) -> Ending:
    """Return how a training ends whose trainer raised.

    Args:
        failed: What it raised.
    """
    if failed.out_of_memory:
        return Ending(TrialStatus.OUT_OF_MEMORY, failed.message)
    if failed.diverged:
        return Ending(TrialStatus.DIVERGED, f"diverged: {failed.message.partition(': ')[2]}")
    return Ending(TrialStatus.CRASHED, failed.message)


def taken_over(at: str) -> Ending:
    """Return how a training ends that a peer has ended.

    Args:
        at: Where it stands, in words.
    """
    return Ending(
        TrialStatus.INTERRUPTED, f"taken over {at} by another process, which had seen no sign of life from this one"
    )
