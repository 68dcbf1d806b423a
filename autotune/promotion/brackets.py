"""What is trained before a full run: the settings with other learning rates, at two lengths between trial and run.

Each method looks at what is stored and trains what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from autotune.core.config_paths import with_paths
from autotune.core.errors import UserError
from autotune.core.promotion_results import Bracket, Promotion
from autotune.core.records import TrialRecord
from autotune.core.text import done_by, duration
from autotune.engine.deadline import MARGIN, REPORT_S
from autotune.engine.event_loop import EventLoop
from autotune.engine.queue import Queue
from autotune.promotion import horizon
from autotune.promotion.early_end import EXPORT_S
from autotune.promotion.horizon import FACTORS
from autotune.store.database import exclusive
from autotune.study.study_file import Study

_LONGEST_S = 365 * 24 * 3600.0
"""Longest run that is begun, in seconds: a longer one is a slip of the keyboard."""


@dataclass(frozen=True)
class BracketRunner:
    """The trainings that turn the settings of a trial into those of a full run.

    Args:
        study: The study file and its trainer.
        loop: What trains.
        open_queue: Opens the queue of the bracket of a trial at so many tokens, before a run of so many.
        sigma: Standard deviation of a loss between seeds, nats per token; None if the study has not measured it.
    """

    study: Study
    loop: EventLoop
    open_queue: Callable[[TrialRecord, int, int], Queue]
    sigma: float | None

    def promotion(self, trial: TrialRecord, tokens: int, as_is: bool, has_time: Callable[[float], bool]) -> Promotion:
        """Return what changes on the way to a longer run; train the brackets that tell it if there is time.

        Args:
            trial: The trial to promote.
            tokens: Length of the run.
            as_is: Whether to copy the settings.
            has_time: Takes seconds; whether there is time for so many more before the run.
        """
        length = self._length(trial)
        rules = self.study.trainer.length_rules
        if tokens == length:
            return Promotion(trial.number, length, tokens, None, note="")
        if as_is:
            return Promotion(trial.number, length, tokens, None, note="as requested")
        if not rules:
            why = "the trainer names no settings that depend on a run's length"
            return Promotion(trial.number, length, tokens, None, note=why)

        brackets, note = self._brackets(trial, tokens, has_time)
        scaling = horizon.scaling(length, tokens, brackets, self._sigma(trial))
        changes = horizon.changes(self._config(trial), rules, length, tokens, scaling.factor)

        return Promotion(trial.number, length, tokens, scaling, tuple(changes), brackets, note)

    def seconds(self, length: int, tokens: int, as_is: bool = False) -> float:
        """Return how long the brackets before a run take, at a trial's pace.

        Args:
            length: Tokens of the trial.
            tokens: Length of the run.
            as_is: Whether the settings are to be copied.
        """
        if not self._is_checked(as_is):
            return 0.0
        return len(FACTORS) * self.loop.pace.usual_seconds(sum(horizon.bracket_tokens(length, tokens)))

    def fitting_tokens(self, trial: TrialRecord, seconds_left: float, as_is: bool) -> int:
        """Return the length of the run that fits into some time, with its brackets.

        Args:
            trial: The trial to promote.
            seconds_left: Until everything must be done.
            as_is: Whether the settings are to be copied.

        Raises:
            UserError: If not even a trial's length fits.
        """
        length = self._length(trial)
        training_s = max(0.0, seconds_left - REPORT_S - EXPORT_S) / MARGIN
        fit = int(training_s / self.loop.pace.usual_seconds(1))
        tokens = horizon.longest(length, fit) if self._is_checked(as_is) else fit

        if tokens < length:
            minutes = seconds_left / 60
            raise UserError(
                f"only {tokens:,} tokens fit into {minutes:.0f} min, fewer than a trial's {length:,}; give more --hours"
            )

        return tokens

    def cost(self, trial: TrialRecord, tokens: int, as_is: bool) -> str:
        """Return in words what a run will take, from now on.

        Args:
            trial: The trial to promote.
            tokens: Length of the run.
            as_is: Whether the settings are to be copied.

        Raises:
            UserError: If it would take more than a year.
        """
        length = self._length(trial)
        bracket_s = self.seconds(length, tokens, as_is)
        seconds = self.loop.pace.usual_seconds(tokens) + bracket_s
        if seconds > _LONGEST_S:
            raise UserError(
                f"a full run of {tokens:,} tokens would take {seconds / _LONGEST_S:,.1f} years here; give fewer "
                "--tokens, or --hours for as many as fit"
            )

        words = f"a full run of {tokens:,} tokens, {tokens / length:.3g} times as long as a trial"
        if bracket_s:
            words += f", after shorter ones for its learning rate ({bracket_s / seconds:.0%} of the time)"
        return f"{words}: about {duration(seconds)}, {done_by(seconds, datetime.now())}"

    def _is_checked(self, as_is: bool) -> bool:
        return not as_is and bool(self.study.trainer.length_rules) and self.study.spec.promote.bracket

    def _length(self, trial: TrialRecord) -> int:
        return trial.budget_tokens or self.study.spec.budget.tokens

    def _brackets(
        self, trial: TrialRecord, tokens: int, has_time: Callable[[float], bool]
    ) -> tuple[tuple[Bracket, ...], str]:
        """Return the brackets, trained if there is time, and why there are none."""
        length = self._length(trial)
        if not self._is_checked(as_is=False):
            return (), "promote.bracket is off"

        queues = {at: self.open_queue(trial, at, tokens) for at in horizon.bracket_tokens(length, tokens)}
        if not queues:
            return (), f"below {horizon.MIN_LENGTHENING} times a trial's length a check would cost more than the run"

        missing = [at for at, queue in queues.items() if self._trained(trial, at, queue) is None]
        if missing and not has_time(self.seconds(length, tokens)):
            return (), "not checked by shorter runs"
        for at in missing:
            self._train(trial, at, queues[at], has_time)

        brackets = [self._trained(trial, at, queue) for at, queue in queues.items()]
        return tuple(each for each in brackets if each is not None), ""

    def _arms(self, trial: TrialRecord, at: int) -> dict[float, dict[str, Any]]:
        """Return the settings of one length by their multiple of the trial's learning rates, about the expected."""
        length = self._length(trial)
        rules = self.study.trainer.length_rules
        config = self._config(trial)
        expected = horizon.scaling(length, at).factor

        arms = {}
        for multiple in FACTORS:
            factor = expected * multiple
            changes = horizon.changes(config, rules, length, at, factor)
            arms[factor] = {**trial.params, **{change.path: change.after for change in changes}}

        return arms

    def _train(self, trial: TrialRecord, at: int, queue: Queue, has_time: Callable[[float], bool]) -> None:
        if self.loop.stop.level:
            return

        with exclusive(queue.storage, self.study.spec.name):
            for params in self._arms(trial, at).values():
                queue.enqueue(params, role="bracket", arm=trial.number, seed=self.study.spec.seed)
        self.loop.run(queue, has_time)

    def _trained(self, trial: TrialRecord, at: int, queue: Queue) -> Bracket | None:
        """Return the losses of one length, or None until each of its trainings has come to an end."""
        ended = [record for record in queue.records() if record.result is not None]
        arms = self._arms(trial, at)

        losses: list[float | None] = []
        for params in arms.values():
            runs = [record for record in ended if dict(record.params) == params]
            if not runs or not runs[-1].status.teaches:
                return None
            losses.append(runs[-1].loss)

        return Bracket(at, tuple(arms), tuple(losses))

    def _config(self, trial: TrialRecord) -> dict[str, Any]:
        return with_paths(self.study.spec.base, trial.params)

    def _sigma(self, trial: TrialRecord) -> float:
        if self.sigma is not None:
            return self.sigma
        return horizon.ONE_SEED_SIGMA * (trial.loss or 0.0)
