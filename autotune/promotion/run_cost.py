"""What a full run takes, with the shorter ones before it: from what is stored of a study alone.

`autotune promote` says it before it begins, and console, status and page say it beside the next command.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autotune.core.attributes import StudyAttributes
from autotune.core.promotion_results import FullRunRecord
from autotune.core.records import TrialRecord, TrialResult, TrialStatus
from autotune.promotion.run_length import Check, dense_evaluations
from autotune.store.study_record import StudyRecord

_ENOUGH_OWN = 2
"""Trainings of the promoted settings from which their pace is theirs alone: other settings make other models."""


@dataclass(frozen=True)
class TrainingPace:
    """How long trainings of a trial's length took, by their parts.

    Args:
        token_s: Seconds for each token.
        evaluation_s: Seconds of an evaluation.
        set_up_s: Seconds of a training beside these.
        evaluations: How many evaluations each had.
    """

    token_s: float
    evaluation_s: float = 0.0
    set_up_s: float = 0.0
    evaluations: int = 0

    def seconds(self, tokens: int, evaluations: int | None = None) -> float:
        """Return what a training takes.

        Args:
            tokens: Its length.
            evaluations: How many evaluations it has; None for as many as a trial.
        """
        count = self.evaluations if evaluations is None else evaluations
        return tokens * self.token_s + count * self.evaluation_s + self.set_up_s

    @classmethod
    def of(cls, record: StudyRecord, trial: TrialRecord) -> TrainingPace | None:
        """Return the pace of a study's trainings, each part by its median; None if none has ended.

        The first training of each device is left out, since kernels and graphs are made in it once. Where the settings
        of the trial were trained often enough, the others do not count.

        Args:
            record: The study.
            trial: The trial to promote.
        """
        every = _trainings(record)
        finished = [each for each in every if each.result.status is TrialStatus.FINISHED]
        usual = _without_first(finished or every)
        own = [each for each in usual if each.of_trial == trial.number]
        if len(own) >= _ENOUGH_OWN:
            usual = own

        return cls.of_results([each.result for each in usual]) if usual else None

    @classmethod
    def of_results(cls, results: Sequence[TrialResult]) -> TrainingPace:
        """Return the median of each part.

        Args:
            results: Trainings with evaluations, at least one.
        """
        token_s, evaluation_s, set_up_s = [], [], []
        for result in results:
            evaluations = [point.metrics.get("eval_s", 0.0) for point in result.points]
            token_s.append(result.training_s / result.points[-1].tokens_seen)
            evaluation_s.append(statistics.fmean(evaluations))
            set_up_s.append(max(0.0, result.seconds - result.training_s - sum(evaluations)))

        return cls(
            token_s=statistics.median(token_s),
            evaluation_s=statistics.median(evaluation_s),
            set_up_s=statistics.median(set_up_s),
            evaluations=round(statistics.median(len(result.points) for result in results)),
        )


@dataclass(frozen=True)
class _Training:
    """A training that tells a pace, and the search trial whose settings it had."""

    of_trial: int | None
    result: TrialResult


def _trainings(record: StudyRecord) -> list[_Training]:
    trainings = []
    for trial in record.trials:
        if trial.result is not None:
            # A trial's curve is the mean of its seeds', and its seconds are their sum.
            one_seed = replace(trial.result, seconds=trial.result.seconds / record.spec.budget.seeds)
            trainings.append(_Training(trial.number, one_seed))
    for run in record.finals:
        if run.result is not None:
            trainings.append(_Training(run.arm, run.result))

    return [each for each in trainings if _has_pace(each.result)]


def _has_pace(result: TrialResult) -> bool:
    return bool(result.points) and result.points[-1].tokens_seen > 0 and result.seconds > 0


def _without_first(trainings: Sequence[_Training]) -> list[_Training]:
    """Return trainings without the first of each device, unless nothing else is left."""
    devices: set[tuple[str, str]] = set()
    later = []
    for each in sorted(trainings, key=lambda each: each.result.started_at):
        device = (each.result.host, each.result.device)
        if device in devices:
            later.append(each)
        devices.add(device)

    return later or list(trainings)


@dataclass(frozen=True)
class RunCost:
    """What a full run takes.

    Args:
        run_s: Seconds of the run itself.
        bracket_s: Seconds of the shorter ones before it, which find its settings.
    """

    run_s: float
    bracket_s: float = 0.0

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.run_s + self.bracket_s


def check_of(record: StudyRecord, tokens: int) -> Check:
    """Return which shorter runs precede a run of so many tokens.

    Args:
        record: The study.
        tokens: Length of the run.
    """
    attributes: StudyAttributes = record.attributes
    train_tokens = int(attributes.probe_facts.get("train_tokens", 0))
    rules = attributes.length_rules

    # A study of an earlier version kept what came of the rules alone.
    before = attributes.promotion
    if rules is None and before is not None and before.scaling is not None:
        return Check.by_number(record.spec, 1 + (before.batch is not None), train_tokens, tokens)

    return Check.by_rules(record.spec, rules or {}, train_tokens, tokens)


def run_cost(
    record: StudyRecord,
    trial: TrialRecord,
    tokens: int,
    as_is: bool = False,
    token_s: float | None = None,
    pace: TrainingPace | None = None,
) -> RunCost | None:
    """Return what a full run takes.

    Args:
        record: The study.
        trial: The trial to promote.
        tokens: Length of the run.
        as_is: Whether the trial's settings are copied, so that no shorter runs precede it.
        token_s: Seconds of the run for each token, evaluations included, if they were measured for it.
        pace: That of trainings where nothing of it is stored; None for none.

    Returns:
        None if it is not known.
    """
    usual = TrainingPace.of(record, trial) or pace
    if usual is None:
        return None

    if token_s is None:
        of_run = _of_full_run(record.attributes.full_run, usual)
        count = record.spec.promote.num_evals or dense_evaluations(record.spec, usual.evaluations, tokens)
        run_s = of_run.seconds(tokens, count)
    else:
        run_s = token_s * tokens

    length = trial.budget_tokens or record.spec.budget.tokens
    check = check_of(record, tokens)
    lengths = () if as_is or tokens == length else check.lengths(length, tokens)
    return RunCost(run_s, check.trainings * sum(map(usual.seconds, lengths)))


def _of_full_run(full: FullRunRecord | None, usual: TrainingPace) -> TrainingPace:
    """Return the pace of the full run that has finished, by its own speeds; the usual one if it told none.

    Its seconds are those of its latest attempt alone, so that what they hold beside tokens and evaluations
    (checkpoints, the export) can be too little, but not too much.

    Args:
        full: The latest full run.
        usual: That of trainings of a trial's length.
    """
    if full is None or full.status != TrialStatus.FINISHED or not full.points:
        return usual
    if not all(point.metrics.get("tokens_per_s", 0.0) > 0 for point in full.points):
        return usual

    own = TrainingPace.of_results([TrialResult(TrialStatus.FINISHED, points=full.points, seconds=full.seconds)])
    return replace(own, evaluation_s=own.evaluation_s or usual.evaluation_s, set_up_s=max(own.set_up_s, usual.set_up_s))
