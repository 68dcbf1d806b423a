"""How long a full run is, and whether shorter ones precede it to find its settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.core.config_paths import flatten
from autotune.core.records import TrialRecord, TrialStatus
from autotune.core.study_results import Plan
from autotune.promotion.repetition import most_worth_tokens, repeats
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study
from autotune.study.trainer_interface import Rule

AS_IS_SUFFIX = "-as-is"
"""Ending of the folder of a full run whose settings are copied from the trial unchanged."""
_DEFAULT_FULL_FACTOR = 8
"""Length of a full run, in lengths of a trial, where the study file names none."""
_MOST_SHARE = 0.1
"""Most that brackets may cost where text is read once, in costs of the run. There the laws give 0.1 to 0.3 % of the
loss away, and a run that is a tenth longer gains 1 % (`night/search_share.py`). It is also the most that they take away
from a run of all the time that there is, as a share of that time."""
_BEST_SHARE = 0.2
"""Share of the trials that count as the best. Of forty settings whose best batch was 5.6 sequences, the best eight had
3 to 10, in the geometric mean 5.6, and the winner 8 (tests/benchmarks/RESULTS.md)."""
_MAX_EVALUATIONS = 100
"""Most evaluations of a full run that follow from those of the trials."""
_LEAST_FACTOR_REPEATED = _DEFAULT_FULL_FACTOR
"""Length from which a run of text that repeats has brackets, in lengths of a trial. There a longer run gains little,
and the trial's own learning rate cost 6.8 % at eight times its length (tests/benchmarks/RESULTS.md)."""


def full_tokens(spec: StudySpec, plan: Plan | None = None, measured: int = 0) -> int:
    """Return the training tokens of the full run that a study file asks for, or else the night has room for.

    Args:
        spec: The study.
        plan: Its plan, once there is one.
        measured: What was measured out for a run that takes what is left of the night; 0 before that.
    """
    planned = plan.run_tokens if plan else 0
    return spec.promote.tokens or measured or planned or _DEFAULT_FULL_FACTOR * spec.budget.tokens


def length_rules(study: Study) -> dict[str, Rule]:
    """Return which settings of a study move with the length, by dotted path.

    A batch moves only where the search has found the best one of its length: nobody knows what another one was meant
    for.
    """
    return _moving(study.spec, study.trainer.length_rules)


def _moving(spec: StudySpec, rules: Mapping[str, Any]) -> dict[str, Any]:
    return {path: rule for path, rule in rules.items() if rule != "batch" or path in spec.space}


def slowness(spec: StudySpec, trial: TrialRecord) -> float:
    """Return the seconds of a token of a trial's settings, as a multiple of the default's.

    Args:
        spec: The study.
        trial: One of its trials; without equal seconds none is known to be slower.
    """
    return spec.budget.tokens / (trial.budget_tokens or spec.budget.tokens)


def dense_evaluations(spec: StudySpec, of_a_trial: int, tokens: int) -> int:
    """Return how often a full run is evaluated where nobody says it: as densely as the trials, within reason.

    Args:
        spec: The study.
        of_a_trial: How often a trial is.
        tokens: Length of the full run.
    """
    as_densely = min(_MAX_EVALUATIONS, of_a_trial * tokens // spec.budget.tokens)
    return max(of_a_trial, as_densely)


def batch_of_the_best(study: Study, config: Mapping[str, Any], trials: Sequence[TrialRecord]) -> float:
    """Return what multiple of a config's batch the best of the trial's length is expected to be, by the best trials.

    Their batches scatter around it, by about as much as one winner's batch alone. So their mean says more, and counts
    the more, the more of them there are; with settings that no search has found, such as the default's, it says most.

    Args:
        study: The study.
        config: The nested config that is promoted.
        trials: Those of the search.

    Returns:
        1.0 where no batch is searched or no trial has finished.
    """
    paths = [path for path, rule in length_rules(study).items() if rule == "batch"]
    whole = [trial for trial in trials if trial.status is TrialStatus.FINISHED and trial.loss is not None]
    if not paths or not whole:
        return 1.0

    own = flatten(config)
    best = sorted(whole, key=lambda trial: trial.loss or 0.0)[: math.ceil(_BEST_SHARE * len(whole))]
    logs = [math.log(float(trial.params.get(paths[0], own[paths[0]])) / float(own[paths[0]])) for trial in best]
    return math.exp(sum(logs) / (len(logs) + 1))


def has_least_batch(study: Study, config: Mapping[str, Any]) -> bool:
    """Return whether a config's batch is the smallest that a study searches.

    Args:
        study: The study.
        config: A nested config.
    """
    values = flatten(config)
    batches = [path for path, rule in length_rules(study).items() if rule == "batch"]
    return any(values[path] <= min(study.spec.space[path].ends()) for path in batches)


@dataclass(frozen=True)
class Check:
    """The brackets that precede a full run.

    Args:
        num_settings: How many kinds of settings they move, one after the other: learning rates, and the batch.
        repeats: Whether the full run reads its text so often that overfitting counts.
    """

    num_settings: int
    repeats: bool

    @classmethod
    def of(cls, study: Study, train_tokens: int, tokens: int) -> Check:
        """Return that of a study.

        Args:
            study: The study.
            train_tokens: Tokens of the whole training text; 0 if that is not known.
            tokens: Length of the run.
        """
        return cls.by_rules(study.spec, study.trainer.length_rules, train_tokens, tokens)

    @classmethod
    def by_rules(cls, spec: StudySpec, rules: Mapping[str, Any], train_tokens: int, tokens: int) -> Check:
        """Return that of a study by the rules of its trainer.

        Args:
            spec: The study.
            rules: What depends on a run's length, by dotted path.
            train_tokens: Tokens of the whole training text; 0 if that is not known.
            tokens: Length of the run.
        """
        num_settings = len({"learning_rate", "batch"} & set(_moving(spec, rules).values()))
        return cls.by_number(spec, num_settings, train_tokens, tokens)

    @classmethod
    def by_number(cls, spec: StudySpec, num_settings: int, train_tokens: int, tokens: int) -> Check:
        """Return that of a study by how many kinds of settings are moved; the others are as in `by_rules`."""
        return cls(num_settings if spec.promote.bracket else 0, repeats(train_tokens, tokens))

    @property
    def trainings(self) -> int:
        """How many trainings a bracket has at first: one in the middle, and a lower and a higher one of each kind."""
        return 1 + 2 * self.num_settings if self.num_settings else 0

    def lengths(self, trial_tokens: int, tokens: int) -> tuple[int, ...]:
        """Return the lengths of brackets before a run: the trial's, and half of the way in factors.

        Args:
            trial_tokens: Length of the trial.
            tokens: Length of the run.

        Returns:
            Two lengths in tokens; none where they would cost more than they are worth.
        """
        lengths = (trial_tokens, round(math.sqrt(trial_tokens * tokens)))
        is_worth_it = (
            tokens >= _LEAST_FACTOR_REPEATED * trial_tokens
            if self.repeats
            else self.trainings * sum(lengths) <= _MOST_SHARE * tokens
        )
        return lengths if self.num_settings and is_worth_it else ()

    def longest(self, trial_tokens: int, tokens: int, slowness: float = 1.0) -> int:
        """Return the longest run that fits, with its brackets where those are worth their share of the time.

        Args:
            trial_tokens: Length of the trial.
            tokens: Tokens in all.
            slowness: How many times as long as the run brackets take for a token.
        """
        # A run of u^2 trials has brackets of one trial and of u trials, with n trainings each. Together that is
        # u^2 + n u + n trials, and u is the positive root where this equals the tokens in all.
        count = self.trainings * slowness
        square = count**2 - 4 * (count - tokens / trial_tokens)
        if square <= count**2:
            return tokens

        run_tokens = int(trial_tokens * ((math.sqrt(square) - count) / 2) ** 2)
        is_worth_it = self.lengths(trial_tokens, run_tokens) and run_tokens >= (1 - _MOST_SHARE) * tokens
        return run_tokens if is_worth_it else tokens

    def full_run_s(self, spec: StudySpec, tokens: int, seconds_for: Callable[[int], float], slots: int) -> float:
        """Return the seconds that an automatic full run trains, with the shorter ones before it; 0 without one.

        Args:
            spec: The study.
            tokens: Length of the run.
            seconds_for: Takes a number of tokens and returns the seconds of a training of that length.
            slots: Devices that train at once, >= 1.
        """
        if not spec.promote.automatic:
            return 0.0

        lengths = self.lengths(spec.budget.tokens, tokens)
        return self.trainings * sum(map(seconds_for, lengths)) / slots + seconds_for(tokens)


def longest_run(study: Study, train_tokens: int, trial_tokens: int, tokens: int, slowness: float = 1.0) -> int:
    """Return the longest run that is worth its time.

    Args:
        study: The study.
        train_tokens: Tokens of the whole training text; 0 if that is not known.
        trial_tokens: Length of a trial.
        tokens: How many fit in all.
        slowness: How many times as long as the run brackets take for a token.
    """
    run = Check.of(study, train_tokens, tokens).longest(trial_tokens, tokens, slowness)
    return min(run, max(trial_tokens, most_worth_tokens(train_tokens))) if train_tokens else run
