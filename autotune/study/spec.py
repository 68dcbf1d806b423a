"""What a study file may say: its tables, their defaults, and what must hold within each."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from autotune.core import objectives
from autotune.core.config_paths import flatten
from autotune.core.objectives import Objective
from autotune.core.secrets import to_be_stored
from autotune.search.dimension import Value, refusal
from autotune.search.space import SearchSpace
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec
from autotune.study.plain_types import Flag, Real, Whole
from autotune.study.trainer_interface import MetricDeclaration

TRACKERS = ("tensorboard", "wandb", "trackio")
"""Experiment trackers that a study may name; each is a package of the same name."""
# Folders of runs/ that hold comparisons, tokens and the history of all studies.
_TAKEN_NAMES = ("compare", "corpus", "timeline")
# A study's own finals, brackets and full runs in its storage; files, for which commands would take the name.
_TAKEN_ENDINGS = re.compile(r"\.(finals(-|$)|full-|bracket-|toml$|json$)")
STORAGE_SCHEMES = ("postgres", "postgresql", "postgresql+psycopg")
"""Schemes of the URL of a shared database."""
_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Without max_seeds, the finals go on to at most this many pairs for each that they begin with.
_MAX_SEEDS_FACTOR = 4
# Far above what any study has use for, and low enough for what counts with it: lists of runs, dates, C's integers.
_MOST_TRIALS = 10_000_000
_MOST_SEEDS = 10_000
_MOST_EVALS = 1_000_000
_MOST_HOURS = 100_000
_MOST_HEARTBEAT_S = 86_400
_MOST_GRACE_S = 86_400
_SEEDS = 2**32


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetSpec(_Table):
    """How much the study may spend.

    Args:
        tokens: Training tokens of one trial.
        trials: Trials at most, the baseline included.
        seeds: Seeds that each trial trains one after the other. Its loss is their mean; before its end it is compared
            with others by the final losses of its seeds (pruner "wilcoxon").
        hours: Hours for everything (search, finals, report and an automatic promotion), or None.
        until: Local time of day "HH:MM" at which everything must be done, or None.
        ends_early: Whether the search ends when more trials would hardly bring a gain that can be proved.
        match_epochs: Whether trials get less text where the full run reads its text more than once, so that they read
            theirs equally often. The trainer must have `data.train_tokens`.
    """

    tokens: Whole = Field(gt=0)
    trials: Whole = Field(default=40, ge=1, le=_MOST_TRIALS)
    seeds: Whole = Field(default=1, ge=1, le=_MOST_SEEDS)
    hours: Real | None = Field(default=None, gt=0, le=_MOST_HOURS)
    until: str | None = None
    ends_early: Flag = True
    match_epochs: Flag = True

    @field_validator("until")
    @classmethod
    def _time_of_day(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value):
            raise refusal(f'"{value}" is not a time of day; write it as "HH:MM", for example "07:00"')
        return value


class FinalsSpec(_Table):
    """How the winner is proved.

    Args:
        finalists: Best search trials that are trained again; 0 proves nothing, which suits a search that is run for
            its records alone.
        select_seeds: Fresh seeds on which the winner is chosen among several finalists.
        prove_seeds: Further fresh seeds on which the winner is compared with the baseline, in pairs. The baseline's
            part of them is trained before the search and says how large the noise is.
        max_seeds: Seeds to go on to, doubling, while the pairs do not decide; 0 means 4 times prove_seeds.
        min_gain_frac: Smallest gain worth having, as a share of the baseline's loss.
        skip_seeds: Fresh seeds to leave out at the beginning, since another study has seen them.
        attribute_seeds: Proving seeds on which a better winner's changes are undone one by one, to tell how much each
            of them gained; 0 leaves that out.
    """

    finalists: Whole = Field(default=2, ge=0, le=_MOST_SEEDS)
    select_seeds: Whole = Field(default=1, ge=1, le=_MOST_SEEDS)
    prove_seeds: Whole = Field(default=4, ge=2, le=_MOST_SEEDS)
    max_seeds: Whole = Field(default=0, ge=0, le=_MOST_SEEDS)
    skip_seeds: Whole = Field(default=0, ge=0, le=_SEEDS)
    min_gain_frac: Real = Field(default=0.005, gt=0, lt=1)
    attribute_seeds: Whole = Field(default=3, ge=0, le=_MOST_SEEDS)

    @model_validator(mode="after")
    def _seeds_are_enough(self) -> FinalsSpec:
        if 0 < self.max_seeds < self.prove_seeds:
            raise refusal(f"max_seeds {self.max_seeds} is below prove_seeds {self.prove_seeds}; raise it", "max_seeds")

        if self.attribute_seeds == 1:
            raise refusal(
                "attribute_seeds is 1, but noise shows only between several seeds; write 2 or more, or 0 for none",
                "attribute_seeds",
            )
        return self

    @property
    def looks(self) -> list[int]:
        """Pairs after which the verdict is looked at, as long as it is not decided."""
        max_pairs = self.max_seeds or _MAX_SEEDS_FACTOR * self.prove_seeds

        pairs = [self.prove_seeds]
        while pairs[-1] < max_pairs:
            pairs.append(min(2 * pairs[-1], max_pairs))
        return pairs

    @property
    def runs(self) -> int:
        """Trainings that the finals take if the first look decides."""
        if not self.finalists:
            return 0

        # A single finalist is the winner without a choice.
        selecting = self.finalists * self.select_seeds if self.finalists > 1 else 0
        proving = 2 * self.prove_seeds
        return selecting + proving


class PromoteSpec(_Table):
    """The full run that follows the study.

    Args:
        tokens: Its training tokens; 0 means 8 times a trial's.
        automatic: Whether `autotune run` goes on into it when the finals are done.
        bracket: Whether other batches and learning rates are tried at two lengths before the run, where that is worth
            its time and there is time.
        num_evals: Evaluations of it, if the trainer has `data.num_evals`; 0 means as dense as the trials', 100 at most.
    """

    tokens: Whole = Field(default=0, ge=0)
    automatic: Flag = False
    bracket: Flag = True
    num_evals: Whole = Field(default=0, ge=0, le=_MOST_EVALS)


class LimitsSpec(_Table):
    """When the study gives something up.

    Args:
        hang_s: Seconds without an evaluation after which a trial counts as hung.
        crashes: Crashed trials in a row after which the study stops.
        retries: Times an interrupted trial is queued again.
        heartbeat_s: Seconds between signs of life in a shared storage.
        min_free_bytes: Free disk below which no trial starts.
        grace_s: Seconds after SIGTERM for which the next evaluation is waited for; then the training is given up.
    """

    hang_s: Real = Field(default=600, gt=0)
    crashes: Whole = Field(default=3, ge=1)
    retries: Whole = Field(default=3, ge=0)
    heartbeat_s: Whole = Field(default=20, ge=1, le=_MOST_HEARTBEAT_S)
    min_free_bytes: Whole = Field(default=500_000_000, ge=0)
    grace_s: Real = Field(default=5, ge=0, le=_MOST_GRACE_S)


class StudySpec(_Table):
    """A whole study file.

    Args:
        name: Names the run directory and the Optuna study.
        title: One sentence for the report.
        trainer: "package.module:function".
        command: Command line of a program to sweep in the place of a trainer, such as "python train.py --lr {lr}".
        pattern: Regular expression that finds a program's evaluations in its lines; "" where they are JSON.
        metric: What a program reports; a trainer's module declares it itself.
        seed: Seed that every search trial trains with; finals take later ones.
        storage: URL of a shared database, in which ${VAR} stands for a variable of the environment; empty for SQLite in
            the run directory.
        artifacts: Folder or fsspec URL that all machines of a shared database reach, for their files; "" for none.
        mixed: Whether processes on another card, in another dtype, or with other versions or another code of the
            trainer may take part in a shared study.
        objective: What a trial is judged by: "loss_at_equal_tokens"; "loss_at_equal_seconds", where `budget.tokens` are
            the baseline's and every other configuration gets what it trains on in the same time; or
            "loss_and_seconds", where trials of equal tokens are judged by both.
        base: The baseline: settings that differ from the trainer's defaults, nested.
        space: What is searched.
        enqueue: Settings by dotted path to try first, right after the baseline; those left out are proposed.
        warm_start: Run directories of earlier studies: their good settings are tried next, and their trials teach the
            sampler where they are comparable.
        trials_from: Run directories of earlier studies whose trials count as this study's own where all but the space
            is the same: `autotune clone` writes it.
        trackers: Experiment trackers that follow the study: "tensorboard", "wandb" (offline), "trackio".
    """

    name: str
    title: str = ""
    trainer: str = "model.train:train"
    command: str = ""
    pattern: str = ""
    metric: MetricDeclaration | None = None
    seed: Whole = Field(default=1, ge=0, lt=_SEEDS)
    storage: str = ""
    artifacts: str = ""
    mixed: Flag = False
    objective: Objective = "loss_at_equal_tokens"
    budget: BudgetSpec
    base: dict[str, Any] = Field(default_factory=dict)
    space: SearchSpace
    enqueue: tuple[dict[str, Value], ...] = ()
    warm_start: tuple[str, ...] = ()
    trials_from: tuple[str, ...] = ()
    trackers: tuple[str, ...] = ()
    sampler: SamplerSpec = Field(default_factory=SamplerSpec)
    pruner: PrunerSpec = Field(default_factory=PrunerSpec)
    finals: FinalsSpec = Field(default_factory=FinalsSpec)
    promote: PromoteSpec = Field(default_factory=PromoteSpec)
    limits: LimitsSpec = Field(default_factory=LimitsSpec)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        why = why_no_name(value)
        if why:
            raise refusal(why)
        return value

    @field_validator("objective", mode="before")
    @classmethod
    def _current_name(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return objectives.EARLIER_NAMES.get(value, value)

    @field_validator("space")
    @classmethod
    def _something_to_search(cls, value: SearchSpace) -> SearchSpace:
        if not len(value):
            raise refusal(
                'nothing is searched; name at least one setting, such as "optim.muon_lr" = {low = 0.003, high = 0.1}'
            )
        return value

    @model_validator(mode="after")
    def _seeds_suit(self) -> StudySpec:
        if self.budget.seeds > 1 and self.pruner.name not in ("wilcoxon", "none"):
            raise refusal(
                'trials with several seeds are compared seed by seed; use "wilcoxon" or "none"', "pruner", "name"
            )
        if self.budget.seeds == 1 and self.pruner.name == "wilcoxon":
            raise refusal('"wilcoxon" compares trials seed by seed; set budget.seeds to 5 or more', "pruner", "name")
        if self.budget.seeds > 1 and objectives.num_values(self.objective) > 1:
            raise refusal(
                "trials with several seeds are judged by their mean loss alone; "
                "leave seeds out, or choose another objective",
                "budget",
                "seeds",
            )
        return self

    @model_validator(mode="after")
    def _files_are_shared(self) -> StudySpec:
        if self.artifacts and not self.storage:
            raise refusal(
                "artifacts is for machines that share a database: name that as storage too, or leave it out and give "
                "--mirror",
                "artifacts",
            )
        if self.mixed and not self.storage:
            raise refusal(
                "mixed is for machines that share a database: name that as storage too, or leave it out", "mixed"
            )
        return self

    @property
    def most_trials(self) -> int:
        """Trials that the search can have: no more than there are settings, as none is tried twice."""
        space = self.space.at_limits()
        most = space.num_settings(self.base, self.budget.trials)

        # The baseline may lie between the steps of a range.
        default = flatten(self.base)
        is_between = any(path in default and not space[path].is_on_grid(default[path]) for path in space)
        return min(self.budget.trials, most + is_between)

    def less(self, trials: int) -> StudySpec:
        """Return the study with a search that is still to be trained, where so many of its trials are there already.

        Args:
            trials: Trials that are there, >= 0.
        """
        left = max(0, self.most_trials - trials)
        return self.model_copy(update={"budget": self.budget.model_copy(update={"trials": left})})

    def attributing_runs(self, changes: int | None = None) -> int:
        """Return the most trainings that it takes to tell how much each change of the winner gained.

        For each seed, these are the winner without each of its changes, and the path from the default to the winner
        between its ends.

        Args:
            changes: Settings that the winner changes; all that are searched by default.
        """
        num_changes = len(self.space) if changes is None else changes

        # A single change gained all of the gain, and without finals there is no winner.
        if num_changes <= 1 or not self.finals.runs:
            return 0
        return self.finals.attribute_seeds * (2 * num_changes - 1)

    def semantics(self) -> dict[str, Any]:
        """Return everything that makes two trials of the study comparable, JSON-able.

        Names, deadlines, the number of trials and limits may change while a study goes on; these may not.
        """
        kept = {"trainer", "seed", "objective", "base", "space", "sampler", "pruner", "finals"}
        budget = {"tokens": self.budget.tokens, "seeds": self.budget.seeds}
        return {**self.model_dump(mode="json", include=kept), "budget": budget}

    def to_store(self) -> dict[str, Any]:
        """Return the whole content as JSON, less what is stored nowhere: the password of a shared database."""
        return {**self.model_dump(mode="json"), "storage": to_be_stored(self.storage, self.storage)}

    def fingerprint(self) -> str:
        """Return a hash of `semantics`, 16 hexadecimal digits."""
        canonical = json.dumps(self.semantics(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def why_no_name(name: str) -> str:
    """Return why a study cannot have a name, "" if it can."""
    if not _NAME_PATTERN.fullmatch(name):
        return f'"{name}" cannot be a name; use up to 64 characters from a-z 0-9 . _ - and begin with a letter or digit'
    if name in _TAKEN_NAMES or _TAKEN_ENDINGS.search(name):
        return f'the name "{name}" is used by autotune itself; choose another'
    return ""


def is_installed(name: str) -> bool:
    """Return whether the package of a tracker is there; a folder of that name, as wandb makes one, does not count."""
    module_spec = importlib.util.find_spec(name)
    return module_spec is not None and module_spec.origin is not None
