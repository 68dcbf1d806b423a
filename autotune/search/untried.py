"""Settings that no trial has tried yet.

All trials of a search train with one seed, so that settings tried again give the same loss, and samplers do propose
them again: the best of a few choices, or the end of a range.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import _filter_study
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from autotune.core.attributes import PRIOR, TrialAttributes
from autotune.core.changes import changed_places
from autotune.search.space import SearchSpace

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_SAMPLER_DRAWS = 3
# A space of which fewer than one draw in so many is untried is gone through one by one.
_RANDOM_DRAWS = 50

_Settings = Mapping[str, Any]
_Key = frozenset[tuple[str, Any]]


class Tried:
    """The settings that were tried with a seed, by this study and by those that it starts from.

    Args:
        seed: The seed of the search.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._trials: list[FrozenTrial] = []
        self._keys: list[_Key | None] = []
        """Of each trial, by number; None if it has tried nothing."""
        self._numbers: dict[_Key, set[int]] = {}
        self._earlier: set[_Key] = set()

    def see(self, trials: Sequence[FrozenTrial]) -> None:
        """Take up what has changed.

        Args:
            trials: All trials of the search, by number; whichever has changed is another object.
        """
        changed = changed_places(self._trials, trials)
        self._trials = list(trials)
        self._keys += [None] * (len(trials) - len(self._keys))

        for number in changed:
            self._forget(number)
            self._take_up(number, trials[number])

    def number(self, settings: _Settings, but: int) -> int | None:
        """Return the first trial of this study that tried settings; None if none did.

        Args:
            settings: By dotted path.
            but: Number of the trial that settings are wanted for.
        """
        return min(self._numbers.get(_key(settings), set()) - {but}, default=None)

    def has(self, settings: _Settings, but: int) -> bool:
        """Return whether settings were tried; see `number`."""
        return _key(settings) in self._earlier or self.number(settings, but) is not None

    def _forget(self, number: int) -> None:
        key = self._keys[number]
        if key is not None:
            self._numbers[key].discard(number)
            self._keys[number] = None

    def _take_up(self, number: int, trial: FrozenTrial) -> None:
        attributes = TrialAttributes(trial)
        key = _key(trial.params)
        if attributes.role == PRIOR:
            if attributes.seed == self._seed:
                self._earlier.add(key)
        elif trial.params and trial.state is not TrialState.WAITING:
            self._keys[number] = key
            self._numbers.setdefault(key, set()).add(number)


def _key(settings: _Settings) -> _Key:
    return frozenset(settings.items())


class Proposals:
    """What may be proposed for one trial that is about to start; nothing is stored with it.

    Args:
        trial: The running trial. What was queued with it stays as it is.
        stored: The same, as it is stored.
        study: Its Optuna study.
        space: What is searched at present.
        whole: What was searched at any time, of which trials are told to Optuna.
        base: The nested base config.
    """

    def __init__(
        self,
        trial: optuna.Trial,
        stored: FrozenTrial,
        study: optuna.Study,
        space: SearchSpace,
        whole: SearchSpace,
        base: Mapping[str, Any],
    ) -> None:
        self._trial = trial
        self._space = space
        self._whole = whole
        self._base = base
        self._frozen = copy.copy(stored)
        self._study = _filter_study(study, self._frozen)
        self.given: dict[str, Any] = {**self._frozen.system_attrs.get("fixed_params", {}), **self._frozen.params}
        """Settings that are not to be proposed: queued ones, and those of the attempt that the trial repeats."""
        self._random = RandomSampler(seed=self._frozen.number)

    def first(self) -> dict[str, Any]:
        """Return what the sampler proposes, as Optuna itself would ask it."""
        return self._settings(self._study.sampler, lambda: self._trial.relative_params)

    def untried(self, is_tried: Callable[[_Settings], bool], seed: int) -> dict[str, Any] | None:
        """Return settings that are not tried: the sampler's next, or else random ones, or else the first that is left.

        Args:
            is_tried: Takes settings by dotted path.
            seed: Of the random ones.

        Returns:
            None if all are tried.
        """
        for _ in range(_SAMPLER_DRAWS):
            settings = self._settings(self._study.sampler, self._asked_again)
            if not is_tried(settings):
                return settings

        random = RandomSampler(seed)
        for _ in range(_RANDOM_DRAWS):
            settings = self._settings(random, dict)
            if not is_tried(settings):
                return settings

        everything = self._space.every_setting(self._base, self.given)
        return next((settings for settings in everything if not is_tried(settings)), None)

    def _asked_again(self) -> dict[str, Any]:
        sampler = self._study.sampler
        distributions = sampler.infer_relative_search_space(self._study, self._frozen)
        return sampler.sample_relative(self._study, self._frozen, distributions)

    def _settings(self, sampler: BaseSampler, relative: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return a whole proposal.

        Args:
            sampler: Asked for what it proposes independently of the rest.
            relative: Returns what is proposed together; called only if anything is to be proposed.
        """
        trial = self._frozen
        trial.params = {}
        trial.distributions = {}
        together: Mapping[str, Any] | None = None

        def value_of(path: str, distribution: BaseDistribution) -> Any:
            nonlocal together
            told = self.told(path, distribution)
            if path in self.given:
                value = self.given[path]
            elif distribution.single():
                value = _only_value(distribution)
            else:
                if together is None:
                    together = relative()
                value = together.get(path)
                if path not in together or not _allows(distribution, value):
                    value = sampler.sample_independent(self._study, trial, path, told)
                if not _allows(distribution, value):
                    value = self._random.sample_independent(self._study, trial, path, distribution)

            # Some samplers look at what is proposed so far.
            trial.params[path] = value
            trial.distributions[path] = told
            return value

        return self._space.propose(value_of, self._base)

    def told(self, path: str, distribution: BaseDistribution) -> BaseDistribution:
        """Return the distribution under which Optuna is told of a value: its choices are never fewer.

        Args:
            path: The setting.
            distribution: What is proposed at present.
        """
        if isinstance(distribution, CategoricalDistribution):
            return self._whole[path].distribution()
        # A person may have added a trial outside of what is searched now, and Optuna refuses to repeat such a one.
        if path in self.given and not _allows(distribution, self.given[path]):
            return self._whole[path].distribution()
        return distribution


def _only_value(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    return distribution.low  # type: ignore[attr-defined]  # all others are ranges


def _allows(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return distribution._contains(distribution.to_internal_repr(value))
