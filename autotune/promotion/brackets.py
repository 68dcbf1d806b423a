"""What is trained before a full run: other learning rates and batches, at two lengths between trial and run.

Each method looks at what is stored and trains what is missing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from autotune.core.config_paths import with_paths
from autotune.core.errors import UserError
from autotune.core.promotion_results import Bracket, Kind, Promotion
from autotune.core.records import TrialRecord, TrialStatus
from autotune.core.text import done_by, duration
from autotune.engine.deadline import MARGIN, REPORT_S
from autotune.engine.event_loop import EventLoop
from autotune.engine.queue import Queue
from autotune.finals.power import seed_noise
from autotune.promotion.early_end import END_MARGIN, EXPORT_S
from autotune.promotion.horizon import FACTORS, ONE_SEED_SIGMA, Horizon, Multiples, batch_worth
from autotune.promotion.repetition import repeats
from autotune.promotion.run_cost import TrainingPace, run_cost
from autotune.promotion.run_length import Check, batch_of_the_best, has_least_batch, length_rules, longest_run, slowness
from autotune.store.absence import again_if_cut_off
from autotune.store.database import exclusive
from autotune.store.study_record import StudyRecord
from autotune.study.study_file import Study

_KINDS: tuple[Kind, ...] = ("batch", "learning_rate")
"""What is tried, in this order."""
_MOST_FURTHER = 2
"""Values that are tried outward from an end, at most. Of runs that read their text six times, four times as long as
their trials, twice the batch was 4 % better than the trial's, and nobody had tried four times
(tests/benchmarks/RESULTS.md)."""
_LONGEST_S = 365 * 24 * 3600.0
"""Longest run that is begun, in seconds: a longer one is a slip of the keyboard."""

Losses = dict[Multiples, float | None]
"""Final losses in nats per token; None where a training did not finish."""


@dataclass(frozen=True)
class BracketRunner:
    """The trainings that turn the settings of a trial into those of a full run.

    Args:
        study: The study file and its trainer.
        loop: What trains.
        open_queue: Opens the queue of the bracket of a trial at so many tokens, before a run of so many.
        record: What is stored of the study.
        train_tokens: Tokens of the whole training text; 0 if that is not known.
    """

    study: Study
    loop: EventLoop
    open_queue: Callable[[TrialRecord, int, int], Queue]
    record: StudyRecord
    train_tokens: int

    def promotion(
        self,
        trial: TrialRecord,
        tokens: int,
        as_is: bool,
        has_time: Callable[[float], bool],
        most_batch: float = math.inf,
    ) -> Promotion:
        """Return what changes on the way to a longer run; train the brackets that tell it if there is time.

        Args:
            trial: The trial to promote.
            tokens: Length of the run.
            as_is: Whether to copy the settings.
            has_time: Takes seconds; whether there is time for so many more before the run.
            most_batch: Highest multiple of the trial's batch that fits into memory.
        """
        length = self._length(trial)
        if tokens == length:
            return Promotion(trial.number, length, tokens, None, note="")
        if as_is:
            return Promotion(trial.number, length, tokens, None, note="as requested")
        if not self.study.trainer.length_rules:
            why = "the trainer names no settings that depend on a run's length"
            return Promotion(trial.number, length, tokens, None, note=why)

        brackets, note = self._brackets(trial, tokens, has_time)
        settings = self._horizon(trial, tokens, min(most_batch, self._fitting_batch(trial, tokens)))
        sigma = self.sigma(trial)
        if sigma is None:
            sigma = ONE_SEED_SIGMA * abs(trial.loss or 0.0)

        batch = settings.batch(tokens, brackets, sigma)
        multiple = 1.0 if batch is None else settings.whole_batch(batch.factor)
        scaling = settings.rate(tokens, multiple, brackets, sigma)
        changes = settings.changes(tokens, Multiples(multiple, scaling.factor))

        return Promotion(
            trial=trial.number,
            trial_tokens=length,
            tokens=tokens,
            scaling=scaling,
            changes=tuple(changes),
            brackets=brackets,
            note=note,
            batch=batch and replace(batch, factor=multiple),
            batch_worth=batch_worth(multiple) if multiple != 1 else None,
            best_batch=settings.best_batch,
            has_least_batch=settings.has_least_batch,
            bracket_s=self._seconds_trained(trial, tokens),
        )

    def sigma(self, trial: TrialRecord) -> float | None:
        """Return the standard deviation of a trial's loss between seeds, nats per token.

        It is the default's where the trial's own was not measured; None if neither was.
        """
        own = seed_noise(trial.number, self.record.finals)
        if own is not None:
            return own
        of_default = self.record.attributes.noise
        return of_default.sigma if of_default else None

    def seconds(self, trial: TrialRecord, tokens: int, as_is: bool = False) -> float:
        """Return how long the brackets before a run may take, at the pace of this process's trainings.

        Args:
            trial: The trial to promote.
            tokens: Length of the run.
            as_is: Whether the settings are to be copied.
        """
        if as_is:
            return 0.0
        check = self._check(tokens)
        return check.trainings * self._token_s(trial) * sum(check.lengths(self._length(trial), tokens))

    def queues(self, trial: TrialRecord, tokens: int) -> dict[int, Queue]:
        """Open the queues of the brackets before a run, by their length.

        Args:
            trial: The trial to promote.
            tokens: Length of the run.
        """
        lengths = self._check(tokens).lengths(self._length(trial), tokens)
        return {at: self.open_queue(trial, at, tokens) for at in lengths}

    def expected(self, trial: TrialRecord, tokens: int) -> dict[str, Any]:
        """Return the settings of a run as they are expected before anything is trained for it.

        Args:
            trial: The trial to promote.
            tokens: Length of the run.
        """
        return self._params(trial, tokens, tokens, self._horizon(trial, tokens).expected(tokens))

    def fitting_tokens(self, trial: TrialRecord, seconds_left: float, as_is: bool, token_s: float | None = None) -> int:
        """Return the length of the run that fits into some time, with its brackets.

        Args:
            trial: The trial to promote.
            seconds_left: Until everything must be done.
            as_is: Whether the settings are to be copied.
            token_s: Seconds of the run for each token; None for those of trials.

        Raises:
            UserError: If not even a trial's length fits.
        """
        length = self._length(trial)
        training_s = max(0.0, seconds_left - REPORT_S - EXPORT_S) / END_MARGIN
        trial_token_s = self._token_s(trial)
        token_s = token_s or trial_token_s
        fit = int(training_s / token_s)
        slower = trial_token_s / token_s * MARGIN / END_MARGIN  # only the run itself can be ended early
        tokens = fit if as_is else longest_run(self.study, self.train_tokens, length, fit, slower)

        if tokens < length:
            minutes = seconds_left / 60
            fitting = self.study.trainer.metric.budget(tokens)
            raise UserError(
                f"only {fitting} fit into {minutes:.0f} min, fewer than a trial's {length:,}; give more --hours"
            )

        return tokens

    def cost(self, trial: TrialRecord, tokens: int, as_is: bool, token_s: float | None = None) -> str:
        """Return in words what a run will take, from now on: by `run_cost`, as beside the next command.

        Args:
            trial: The trial to promote.
            tokens: Length of the run.
            as_is: Whether the settings are to be copied.
            token_s: Seconds of the run for each token, if they were measured.

        Raises:
            UserError: If it would take more than a year.
        """
        length = self._length(trial)
        usual = TrainingPace(self._token_s(trial))
        cost = run_cost(self.record, trial, tokens, as_is, token_s, usual)
        assert cost is not None, "the pace is known"

        seconds, bracket_s = cost.seconds, cost.bracket_s
        length_words = self.study.trainer.metric.budget(tokens)
        if seconds > _LONGEST_S:
            raise UserError(
                f"a full run of {length_words} would take {seconds / _LONGEST_S:,.1f} years here; give fewer "
                "--tokens, or --hours for as many as fit"
            )

        words = f"a full run of {length_words}, {tokens / length:.3g} times as long as a trial"
        if bracket_s:
            words += f", after shorter ones for its settings ({bracket_s / seconds:.0%} of the time)"
        return f"{words}: about {duration(seconds)}, {done_by(seconds, datetime.now())}"

    def _check(self, tokens: int) -> Check:
        """Return which brackets precede a run of so many tokens."""
        return Check.of(self.study, self.train_tokens, tokens)

    def _horizon(self, trial: TrialRecord, tokens: int, most_batch: float = math.inf) -> Horizon:
        """Return how the settings of a trial move on the way to a run of so many tokens."""
        config = with_paths(self.study.spec.base, trial.params)
        return Horizon(
            config=config,
            rules=length_rules(self.study),
            trial_tokens=self._length(trial),
            repeats=repeats(self.train_tokens, tokens),
            best_batch=batch_of_the_best(self.study, config, self.record.trials),
            has_least_batch=has_least_batch(self.study, config),
            most_batch=most_batch,
        )

    def _token_s(self, trial: TrialRecord) -> float:
        """Return the seconds of a token of a trial's settings, by the pace, which is the default's."""
        return slowness(self.study.spec, trial) * self.loop.pace.usual_seconds(1)

    def _length(self, trial: TrialRecord) -> int:
        return trial.budget_tokens or self.study.spec.budget.tokens

    def _brackets(
        self, trial: TrialRecord, tokens: int, has_time: Callable[[float], bool]
    ) -> tuple[tuple[Bracket, ...], str]:
        """Return the brackets, trained if there is time, and why there are none."""
        check = self._check(tokens)
        if not check.num_settings:
            return (), "not checked by shorter runs, as the study file says"

        queues = self.queues(trial, tokens)
        if not queues:
            return (), "a check by shorter runs would cost more than it is worth"

        known = [self._tried(trial, tokens, at, queue) for at, queue in queues.items()]
        is_complete = all(len(brackets) == check.num_settings for brackets in known)
        if not is_complete and not has_time(self.seconds(trial, tokens)):
            return (), "not checked by shorter runs"

        tried = [self._tried(trial, tokens, at, queue, has_time) for at, queue in queues.items()]
        return tuple(itertools.chain(*tried)), ""

    def _seconds_trained(self, trial: TrialRecord, tokens: int) -> float:
        """Return how long the trainings of the brackets before a run took, those of all machines together."""
        records = itertools.chain.from_iterable(queue.records() for queue in self.queues(trial, tokens).values())
        return sum(record.result.seconds for record in records if record.result is not None)

    def _params(self, trial: TrialRecord, tokens: int, at: int, multiples: Multiples) -> dict[str, Any]:
        """Return the settings of one training of a bracket."""
        changes = self._horizon(trial, tokens).changes(at, multiples)
        return {**trial.params, **{change.path: change.after for change in changes}}

    def _tried(
        self, trial: TrialRecord, tokens: int, at: int, queue: Queue, has_time: Callable[[float], bool] | None = None
    ) -> list[Bracket]:
        """Return the losses of one length, for each kind of setting whose first trainings have ended.

        Batches come first, and learning rates are tried beside the best of them. Where the lowest loss is at an end,
        the next value outward is tried as well.

        Args:
            trial: The trial to promote.
            tokens: Length of the run.
            at: That of the trainings.
            queue: Theirs.
            has_time: Whether there is time for so many seconds more; None to train nothing.
        """
        horizon = self._horizon(trial, tokens)
        middle = horizon.expected(at)

        def losses(arms: Sequence[Multiples]) -> Losses:
            params = [self._params(trial, tokens, at, arm) for arm in arms]
            if has_time is not None:
                self._train(trial, queue, params, has_time)
            return _losses(arms, params, queue.records())

        brackets = []
        for kind in (kind for kind in _KINDS if kind in horizon.rules.values()):
            first = horizon.arms(kind, middle)
            tried = losses(first)
            if len(tried) < len(first):
                break

            for _ in range(_MOST_FURTHER):
                further = _outward(horizon, kind, tried)
                tried |= losses(further)
            brackets.append(_bracket(kind, at, tried))
            middle = _lowest(tried) or middle
        return brackets

    def _train(
        self,
        trial: TrialRecord,
        queue: Queue,
        params: Sequence[Mapping[str, Any]],
        has_time: Callable[[float], bool],
    ) -> None:
        """Train settings that were not trained before."""
        # One that was interrupted waits to be repeated.
        ended = [record for record in queue.records() if record.result is not None]
        known = [dict(record.params) for record in ended if record.status is not TrialStatus.INTERRUPTED]
        if self.loop.stop.level or all(each in known for each in params):
            return

        self._enqueue(trial, queue, params)
        self.loop.run(queue, has_time)

    @again_if_cut_off
    def _enqueue(self, trial: TrialRecord, queue: Queue, params: Sequence[Mapping[str, Any]]) -> None:
        with exclusive(queue.storage, self.study.spec.name):
            for each in params:  # what is queued already is not queued again
                queue.enqueue(each, role="bracket", arm=trial.number, seed=self.study.spec.seed)

    def _fitting_batch(self, trial: TrialRecord, tokens: int) -> float:
        """Return the highest multiple of a trial's batch that no bracket found too large for the memory."""
        batches = [path for path, rule in length_rules(self.study).items() if rule == "batch"]
        too_large = [
            float(record.params[path]) / float(trial.params[path])
            for path, queue in itertools.product(batches, self.queues(trial, tokens).values())
            for record in queue.records()
            if record.status is TrialStatus.OUT_OF_MEMORY and path in record.params
        ]
        return max(1.0, min(too_large, default=math.inf) / 2)


def _losses(arms: Sequence[Multiples], params: Sequence[Mapping[str, Any]], records: Sequence[TrialRecord]) -> Losses:
    """Return the losses of what has ended."""
    losses: Losses = {}
    for arm, each in zip(arms, params, strict=True):
        ended = [record for record in records if record.result is not None and dict(record.params) == each]
        if ended and ended[-1].status.teaches:
            losses[arm] = ended[-1].loss
    return losses


def _lowest(losses: Losses) -> Multiples | None:
    """Return what gave the lowest loss, if any training finished."""
    finished = {arm: loss for arm, loss in losses.items() if loss is not None}
    return min(finished, key=lambda arm: finished[arm], default=None)


def _outward(horizon: Horizon, kind: Kind, losses: Losses) -> list[Multiples]:
    """Return what is next to the lowest loss, where that is at an end: a single one, or none."""
    lowest = _lowest(losses)
    ends = min(losses, key=_low_to_high), max(losses, key=_low_to_high)
    if lowest not in ends:
        return []
    further = horizon.moved(kind, lowest, FACTORS[0] if lowest == ends[0] else FACTORS[-1])
    return [] if further in losses else [further]


def _low_to_high(arm: Multiples) -> tuple[float, float]:
    return arm.batch, arm.rate


def _bracket(kind: Kind, at: int, losses: Losses) -> Bracket:
    """Return the losses of one kind of setting in the form in which they are stored."""
    arms = sorted(losses, key=_low_to_high)
    found = tuple(losses[arm] for arm in arms)
    if kind == "batch":
        return Bracket(at, tuple(arm.batch for arm in arms), found, kind)
    return Bracket(at, tuple(arm.rate for arm in arms), found, kind, arms[0].batch)
