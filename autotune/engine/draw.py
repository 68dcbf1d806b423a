"""Drawing the next training of a queue: which settings, which seed, how many tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.attributes import TrialAttributes
from autotune.core.config_paths import drop_unknown_paths, with_paths
from autotune.core.errors import UserError
from autotune.core.files import write_json
from autotune.core.records import TrialStatus
from autotune.core.requests import ranges_set, stopped_trials, trials_wanted
from autotune.engine.assignment import Assignment, TrainingPlan
from autotune.engine.recovery import attempts_before
from autotune.engine.trial_store import Look, TrialStore
from autotune.search import ranges
from autotune.search.searched import present_space, whole_space
from autotune.search.untried import Proposals

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

MAX_ATTEMPTS = 4
"""Trials started per trial wanted, before the study gives up on ever getting them done."""


@dataclass(frozen=True)
class Draw:
    """Draws trials and makes trainings of them.

    Args:
        plan: What its trainings have in common.
        store: The trials.
        note: Takes the kind of something noteworthy and a sentence about it.
    """

    plan: TrainingPlan
    store: TrialStore
    note: Callable[[str, str], None]

    def begin(self, look: Look) -> optuna.Trial | None:
        """Start the next trial, whose settings are still to be settled; the caller holds the lock.

        Args:
            look: What is stored at present.

        Returns:
            None when there is nothing to start now.

        Raises:
            UserError: If far more trials were started than are wanted, and too few of them ended.
        """
        while self.has_next(look):
            self._widen_ranges(look)
            trial = self.store.ask(look)
            if not self.plan.asks_sampler or trial.number not in stopped_trials(look.attributes.requests):
                return trial
            # A person has stopped it before it began.
            self.store.pass_over(trial)
            look = self.store.look()

        return None

    def assign(self, trial: optuna.Trial) -> Assignment:
        """Return what a trial trains, and write its configuration beside its other files."""
        spec = self.store.study.spec
        attributes = TrialAttributes(trial)
        attributes.seed = seed = attributes.seed or spec.seed
        if self.store.peer:
            attributes.peer = self.store.peer

        frozen = self.store.storage.get_trial(trial._trial_id)
        params = attributes.params
        if self.plan.asks_sampler:
            params = {path: frozen.params[path] for path in spec.space if path in frozen.params}
        config = with_paths(spec.base, {**self.plan.overrides, **params, **self._seed_setting(seed)})
        folder = self._folder(trial.number)
        self._set_aside(folder)
        write_json(folder / "config.json", config)

        attempts = [*attempts_before(frozen), trial.number]
        budget_tokens, probe_points = self._length(trial, params, config)
        return Assignment(
            trial=trial,
            params=params,
            config=config,
            folder=folder,
            budget_tokens=budget_tokens,
            first_attempt=attempts[0],
            seed=seed,
            probe_points=probe_points,
            seeds_left=tuple(range(seed + 1, seed + self.plan.seeds)),
        )

    def _set_aside(self, folder: Path) -> None:
        """Move away what lies where a trial begins: a training that the database, put back from a backup, has lost."""
        kept = self.store.run.set_aside(folder)
        if kept is not None:
            what = f"{folder} holds a training that the database does not know (put back from a backup perhaps)"
            self.note("set aside", f"{what}: it is kept in {kept}")

    def with_next_seed(self, assignment: Assignment) -> Assignment:
        """Return the same training with the next of its trial's seeds."""
        seed, *others = assignment.seeds_left
        config = with_paths(assignment.config, self._seed_setting(seed))
        return replace(assignment, config=config, seeds_left=tuple(others))

    def with_measured_speed(self, assignment: Assignment, tokens_per_s: float) -> Assignment:
        """Return the training that a probe was for, with the budget that the measured speed gives it."""
        from optuna.exceptions import UpdateFinishedTrialError

        assert self.plan.equal_seconds is not None, "only trainings of equal seconds are probed"
        budget_tokens = self.plan.equal_seconds.keep(assignment.params, assignment.config, tokens_per_s)
        # A trial that a peer has taken over cannot be changed; its first report will show that.
        with contextlib.suppress(UpdateFinishedTrialError):
            TrialAttributes(assignment.trial).budget_tokens = budget_tokens
        return replace(assignment, budget_tokens=budget_tokens, probe_points=None)

    def settle(self, trial: optuna.Trial, look: Look) -> bool:
        """Choose the settings of a trial of the search, and store them with it; without the lock, which it takes.

        Args:
            trial: The trial that begins.
            look: What was stored right before.

        Returns:
            False if everything that it may train was tried before: then it has ended.
        """
        if not self.plan.asks_sampler:
            return True

        spec = self.store.study.spec
        attributes = self.store.attributes.at_present()
        space, whole = present_space(spec.space, attributes), whole_space(spec.space, attributes)
        stored = self.store.storage.get_trial(trial._trial_id)
        proposals = Proposals(trial, stored, self.store.optuna_study, space, whole, spec.base)
        self.store.tried.see(look.trials)
        settings = self._untried(proposals, stored, proposals.first())

        with self.store.locked():
            if settings is not None and self.store.is_shared:
                # A peer may have chosen the same since that look.
                self.store.tried.see(self.store.trials())
                settings = self._untried(proposals, stored, settings)
            if settings is None:
                self.store.pass_over(trial)
                return False

            proposed = {path: value for path, value in settings.items() if path not in stored.params}
            told = {path: proposals.told(path, space[path].distribution()) for path in proposed}
            self.store.set_params(trial, proposed, told)
        return True

    def _untried(self, proposals: Proposals, stored: FrozenTrial, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Return settings, or others in their place if they were tried; None if there are none."""
        if attempts_before(stored) and stored.params:
            return settings  # the very point is to train them again

        tried, number = self.store.tried, stored.number
        seed = self.store.study.spec.seed + number
        if not proposals.given:
            if not tried.has(settings, number):
                return settings
            other = proposals.untried(lambda each: tried.has(each, number), seed)
            if other is None:
                self.store.attributes.exhausted = True
            return other

        # Good settings of an earlier study are trained in this one too.
        same = tried.number(settings, number)
        if same is None:
            return settings
        other = proposals.untried(lambda each: tried.number(each, number) is not None, seed)
        if other is None:
            queued = ", ".join(f"{path}={value}" for path, value in settings.items())
            self.note("search", f"the queued settings {queued} are those of trial {same}: they are not tried again")
        return other

    def has_next(self, look: Look) -> bool:
        """Return whether there is something to start.

        Args:
            look: What is stored at present.

        Raises:
            UserError: If far more trials were started than are wanted, and too few of them ended.
        """
        if not self.plan.is_for(self.store.device):
            return False
        if look.waiting:
            return True
        if self.plan.target is None or look.attributes.exhausted:
            return False

        records = look.records
        target = trials_wanted(self.plan.target, look.attributes.requests)
        attempts = sum(not record.excused for record in records)
        if attempts >= MAX_ATTEMPTS * (target + 1):
            raise UserError(
                f"{attempts} trials were started for the {target} wanted, and too few of them ended; "
                f"see the logs under {self._folder(0).parent}",
                1,
            )

        counted = sum(record.status is not TrialStatus.INTERRUPTED for record in records)
        return counted < target

    def _widen_ranges(self, look: Look) -> None:
        # With several values, the trial of the lowest loss is not the best one.
        if not self.plan.asks_sampler or not self.store.has_one_value:
            return
        if self.store.study.spec.sampler.name not in ranges.CHANGING_RANGE_SAMPLERS:
            return

        space = present_space(self.store.study.spec.space, look.attributes)
        set_by_hand = {wish.path for wish in ranges_set(look.attributes.requests)}
        widened = ranges.widened_ranges(space, look.records, set_by_hand)
        if widened:
            self.store.attributes.ranges = {**look.attributes.ranges, **widened}
            self.note("ranges", ranges.describe_widening(space, widened))

    def _folder(self, number: int) -> Path:
        return self.store.run.trial(self.plan.folder_name, number)

    def _seed_setting(self, seed: int) -> dict[str, Any]:
        by_path = self.store.study.trainer.by_path({"seed": seed})
        return drop_unknown_paths(self.store.study.spec.base, by_path)

    def _length(
        self, trial: optuna.Trial, params: Mapping[str, Any], config: Mapping[str, Any]
    ) -> tuple[int, int | None]:
        """Return a trial's token budget and None, or the length of the probe that has to decide it."""
        if self.plan.equal_seconds is None:
            return self.plan.budget_tokens, None

        # A repeated trial trains as long as its first attempt, unless that may have been on another card.
        attributes = TrialAttributes(trial)
        earlier = None if self.store.device.name else attributes.budget_tokens
        budget_tokens = earlier or self.plan.equal_seconds.tokens(params, config)
        if budget_tokens is None:
            return self.plan.equal_seconds.probe_length

        attributes.budget_tokens = budget_tokens
        return budget_tokens, None
