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
from autotune.engine.trial_store import TrialStore
from autotune.search import ranges
from autotune.search.untried import Proposals, Tried

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

    def ask(self) -> optuna.Trial | None:
        """Start the next trial; the caller holds the lock.

        Returns:
            None when there is nothing to start now.

        Raises:
            UserError: If far more trials were started than are wanted, and too few of them ended.
        """
        while self.has_next():
            self._widen_ranges()
            trial = self.store.optuna_study.ask()
            if self._is_wanted(trial) and (not self.plan.asks_sampler or self._settle(trial)):
                return trial
            self.store.pass_over(trial)

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

    def _is_wanted(self, trial: optuna.Trial) -> bool:
        """Return whether nobody has stopped a trial of the search before it began."""
        return not self.plan.asks_sampler or trial.number not in stopped_trials(self.store.attributes.requests)

    def _settle(self, trial: optuna.Trial) -> bool:
        """Choose the settings of a trial of the search, and store them with it.

        Returns:
            False if everything that it may train was tried before.
        """
        study, space, spec = self.store.optuna_study, self.store.space, self.store.study.spec
        trials = study.get_trials(deepcopy=False)
        stored = trials[trial.number]

        proposals = Proposals(trial, study, space, self.store.whole_space, spec.base)
        settings = self._untried(proposals, Tried(trials, spec.seed, trial.number), stored)
        if settings is None:
            return False

        for path, value in settings.items():
            if path not in stored.params:
                distribution = proposals.told(path, space[path].distribution())
                internal = distribution.to_internal_repr(value)
                self.store.storage.set_trial_param(trial._trial_id, path, internal, distribution)
        return True

    def _untried(self, proposals: Proposals, tried: Tried, stored: FrozenTrial) -> dict[str, Any] | None:
        """Return settings for a trial that no other has tried; None if there are none."""
        settings = proposals.first()
        if attempts_before(stored) and stored.params:
            return settings  # the very point is to train them again

        seed = self.store.study.spec.seed + stored.number
        if not proposals.given:
            if settings not in tried:
                return settings
            other = proposals.untried(tried.__contains__, seed)
            if other is None:
                self.store.attributes.exhausted = True
            return other

        # Good settings of an earlier study are trained in this one too.
        number = tried.number(settings)
        if number is None:
            return settings
        other = proposals.untried(lambda each: tried.number(each) is not None, seed)
        if other is None:
            queued = ", ".join(f"{path}={value}" for path, value in settings.items())
            self.note("search", f"the queued settings {queued} are those of trial {number}: they are not tried again")
        return other

    def has_next(self) -> bool:
        """Return whether there is something to start, by what is stored at this moment.

        Raises:
            UserError: If far more trials were started than are wanted, and too few of them ended.
        """
        records = self.store.records()
        if any(record.status is TrialStatus.WAITING for record in records):
            return True
        if self.plan.target is None or self.store.attributes.exhausted:
            return False

        target = trials_wanted(self.plan.target, self.store.attributes.requests)
        attempts = sum(not record.excused for record in records)
        if attempts >= MAX_ATTEMPTS * (target + 1):
            raise UserError(
                f"{attempts} trials were started for the {target} wanted, and too few of them ended; "
                f"see the logs under {self._folder(0).parent}",
                1,
            )

        counted = sum(record.status is not TrialStatus.INTERRUPTED for record in records)
        return counted < target

    def _widen_ranges(self) -> None:
        # With several values, the trial of the lowest loss is not the best one.
        if not self.plan.asks_sampler or not self.store.has_one_value:
            return
        if self.store.study.spec.sampler.name not in ranges.CHANGING_RANGE_SAMPLERS:
            return

        space, attributes = self.store.space, self.store.attributes
        set_by_hand = {wish.path for wish in ranges_set(attributes.requests)}
        widened = ranges.widened_ranges(space, self.store.records(), set_by_hand)
        if widened:
            attributes.ranges = {**attributes.ranges, **widened}
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

        # A repeated trial trains as long as its first attempt.
        attributes = TrialAttributes(trial)
        budget_tokens = attributes.budget_tokens or self.plan.equal_seconds.tokens(params, config)
        if budget_tokens is None:
            return self.plan.equal_seconds.probe_length

        attributes.budget_tokens = budget_tokens
        return budget_tokens, None
