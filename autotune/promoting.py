"""What is trained before a full run: the settings with other learning rates, at two lengths between trial and run.

Each step looks at what is stored and trains what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autotune import horizon
from autotune.database import exclusive
from autotune.event_loop import EventLoop
from autotune.horizon import FACTORS, Bracket, Promotion
from autotune.queues import Queue
from autotune.records import TrialRecord
from autotune.space import with_paths
from autotune.spec import Study


@dataclass(frozen=True)
class Promoting:
    """Finds the settings of a full run from those of a trial.

    Args:
        study: The study file and its trainer.
        loop: What trains.
        open_queue: Opens the queue of the bracket of a trial at so many tokens.
        sigma: Standard deviation of a loss between seeds, nats per token; None if the study has not measured it.
    """

    study: Study
    loop: EventLoop
    open_queue: Callable[[TrialRecord, int], Queue]
    sigma: float | None

    def promotion(self, trial: TrialRecord, tokens: int, as_is: bool, has_time: Callable[[float], bool]) -> Promotion:
        """Returns what changes on the way to a longer run, after training what tells it if there is time.

        Args:
            trial: The trial to promote.
            tokens: Length of the run.
            as_is: Whether to copy the settings.
            has_time: Takes seconds; whether there is time for so many more before the run.
        """
        length = trial.budget_tokens or self.study.spec.budget.tokens
        rules = self.study.trainer.length_rules
        if as_is or not rules or tokens == length:
            why = "as was asked for" if as_is else "the trainer names no settings that depend on a run's length"
            return Promotion(trial.number, length, tokens, None, note="" if tokens == length else why)
        brackets, note = self._brackets(trial, length, tokens, has_time)
        scaling = horizon.scaling(length, tokens, brackets, self._sigma(trial))
        changes = horizon.changes(self._config(trial), rules, length, tokens, scaling.factor)
        return Promotion(trial.number, length, tokens, scaling, tuple(changes), brackets, note)

    def seconds(self, length: int, tokens: int) -> float:
        """Returns how long the brackets before a run take, at a trial's pace.

        Args:
            length: Tokens of the trial.
            tokens: Length of the run.
        """
        if not self.study.trainer.length_rules or not self.study.spec.promote.bracket:
            return 0.0
        return len(FACTORS) * self.loop.pace.seconds(sum(horizon.bracket_tokens(length, tokens)))

    def _brackets(
        self, trial: TrialRecord, length: int, tokens: int, has_time: Callable[[float], bool]
    ) -> tuple[tuple[Bracket, ...], str]:
        lengths = horizon.bracket_tokens(length, tokens)
        if not self.study.spec.promote.bracket:
            return (), "promote.bracket is off"
        if not lengths:
            return (), f"below {horizon.MIN_LENGTHENING} times a trial's length a check would cost more than the run"
        queues = [self.open_queue(trial, at) for at in lengths]
        found = [self._trained(trial, length, at, queue) for at, queue in zip(lengths, queues, strict=True)]
        if not all(found) and not has_time(self.seconds(length, tokens)):
            return (), "not checked by shorter runs"
        for at, queue in zip(lengths, queues, strict=True):
            self._train(trial, length, at, queue, has_time)
        found = [self._trained(trial, length, at, queue) for at, queue in zip(lengths, queues, strict=True)]
        return tuple(each for each in found if each is not None), ""

    def _train(self, trial: TrialRecord, length: int, at: int, queue: Queue, has_time: Callable[[float], bool]) -> None:
        if self.loop.stop.level:
            return
        with exclusive(queue.storage, self.study.spec.name):
            for factor in self._factors(length, at):
                params = {**trial.params, **self._changed(trial, length, at, factor)}
                queue.enqueue(params, role="bracket", arm=trial.number, seed=self.study.spec.seed)
        self.loop.run(queue, has_time)

    def _trained(self, trial: TrialRecord, length: int, at: int, queue: Queue) -> Bracket | None:
        """Returns the losses of one length, None until each of its trainings has come to an end."""
        records = queue.records()
        losses: list[float | None] = []
        factors = self._factors(length, at)
        for factor in factors:
            params = {**trial.params, **self._changed(trial, length, at, factor)}
            runs = [record for record in records if dict(record.params) == params and record.result is not None]
            if not runs or not runs[-1].status.teaches:
                return None
            losses.append(runs[-1].loss)
        return Bracket(at, factors, tuple(losses))

    def _factors(self, length: int, at: int) -> tuple[float, ...]:
        """Returns the multiples of the trial's learning rates around what the published rule gives for a length."""
        expected = horizon.scaling(length, at).factor
        return tuple(expected * factor for factor in FACTORS)

    def _changed(self, trial: TrialRecord, length: int, at: int, factor: float) -> dict[str, float]:
        rules = self.study.trainer.length_rules
        found = horizon.changes(self._config(trial), rules, length, at, factor)
        return {change.path: change.after for change in found}

    def _config(self, trial: TrialRecord) -> dict[str, object]:
        return with_paths(self.study.spec.base, trial.params)

    def _sigma(self, trial: TrialRecord) -> float:
        return self.sigma if self.sigma is not None else horizon.ONE_SEED_SIGMA * (trial.loss or 0.0)
