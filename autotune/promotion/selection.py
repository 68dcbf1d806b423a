"""Which trial and which settings are the best of a study: what `best_config.toml` holds, or would hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autotune.core.config_paths import drop_unknown_paths, with_paths
from autotune.core.errors import UserError
from autotune.core.records import TrialRecord, TrialStatus, VerdictWord
from autotune.core.study_results import Attribution
from autotune.finals.verdict import ATTRIBUTE, PROVE, mean_metrics, ranked
from autotune.store.study_record import StudyRecord


@dataclass(frozen=True)
class BestSettings:
    """The best settings of a study.

    Args:
        trial: The search trial that they come from, with the settings as they are promoted.
        why: Why these, half a sentence.
        left_at_default: Its changes that are not promoted, with their default by dotted path.
        is_decided: Whether the finals have decided on it; else it is the lowest loss so far.
    """

    trial: TrialRecord
    why: str
    left_at_default: Mapping[str, Any] = field(default_factory=dict)
    is_decided: bool = True

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration, nested; {} as long as the trial has none."""
        if self.trial.result is None:
            return {}
        config = self.trial.result.config
        return with_paths(config, drop_unknown_paths(config, self.left_at_default))


@dataclass(frozen=True)
class MeasuredGain:
    """What settings measured on fresh seeds beside the default on the same seeds.

    Args:
        seeds: The seeds.
        baseline_loss: The default's mean loss, nats per token.
        loss: That of the settings.
        baseline_metrics: Means of the default's last evaluations; {} where they are not known.
        metrics: Those of the settings.
        interval: Ends of the gain's 95 % interval, nats per token; None where it is not known.
    """

    seeds: tuple[int, ...]
    baseline_loss: float
    loss: float
    baseline_metrics: Mapping[str, float]
    metrics: Mapping[str, float]
    interval: tuple[float, float] | None = None

    @property
    def gain(self) -> float:
        """How much lower the loss is with the settings, nats per token."""
        return self.baseline_loss - self.loss


def select_trial_to_promote(record: StudyRecord, number: int | None = None) -> tuple[TrialRecord, str]:
    """Return the trial to promote, with the settings to promote, and why.

    Only a proven winner replaces the baseline. Those of its changes that made no difference go back to their default.

    Args:
        record: The study.
        number: A search trial chosen by the user, or None.

    Returns:
        The trial, with the settings to promote instead of its own, and half a sentence that says why.

    Raises:
        UserError: If there is no such trial, or nothing has finished.
    """
    if number is not None:
        return _trial_by_hand(record, number), "chosen by hand"

    verdict, baseline = record.verdict, record.baseline
    if verdict is None:
        again = record.run.command("run")
        raise UserError(f"{record.name} has no verdict yet; finish it with `{again}`, or name a --trial", 4)

    winner = _trial(record, verdict.winner)
    if winner is not None and verdict.word is VerdictWord.BETTER:
        attribution = attribution_of(record)
        if attribution is None:
            return winner, verdict.reason

        return replace(winner, params=attribution.params), f"{verdict.reason}; {attribution.note}"

    if verdict.word is VerdictWord.FAILED:
        raise UserError(f"no trial of {record.name} finished; its report says why: {record.run.report}", 4)
    if baseline is None or baseline.loss is None:
        again = record.run.command("run")
        raise UserError(
            f"the default settings of {record.name} did not train, and nothing was proved better; `{again}` tries "
            f"them again, or name a --trial; its report says more: {record.run.report}",
            4,
        )

    return baseline, f"the default settings: {verdict.reason}"


def _trial(record: StudyRecord, number: int | None) -> TrialRecord | None:
    return next((trial for trial in record.trials if trial.number == number), None)


def _trial_by_hand(record: StudyRecord, number: int) -> TrialRecord:
    trial = _trial(record, number)
    if trial is None:
        known = ", ".join(str(trial.number) for trial in record.trials)
        hint = f"it has {known}" if known else "none has begun yet"
        raise UserError(f"{record.name} has no trial {number}; {hint}")
    if trial.status not in (TrialStatus.FINISHED, TrialStatus.PRUNED, TrialStatus.STOPPED):
        raise UserError(f"trial {number} of {record.name} is {trial.status}; choose one that finished or was pruned")

    return trial


def best_settings(record: StudyRecord) -> BestSettings | None:
    """Return what would be promoted now, or the lowest loss so far while nothing is decided.

    Args:
        record: The study.

    Returns:
        None when nothing has finished.
    """
    try:
        trial, why = select_trial_to_promote(record)
    except UserError:
        finished = ranked(record.trials)
        if not finished:
            return None
        return BestSettings(finished[0], "the best trial so far, not proved", is_decided=False)

    attribution = attribution_of(record)
    left = {} if attribution is None else left_at_default(attribution)
    return BestSettings(trial, why, left)


def attribution_of(record: StudyRecord) -> Attribution | None:
    """Return what each change of the proven winner gave, or None if that is not known.

    Args:
        record: The study.
    """
    attribution = record.attributes.attribution
    verdict = record.verdict
    if attribution is None or verdict is None or verdict.word is not VerdictWord.BETTER:
        return None

    return attribution if attribution.winner == verdict.winner else None


def left_at_default(attribution: Attribution) -> dict[str, Any]:
    """Return the changes that are not promoted, with their default by dotted path.

    These are the ties, and the changes that have no effect once the ties are back at their default.
    """
    promoted = attribution.params
    return {
        change.path: change.before
        for change in attribution.changes
        if promoted.get(change.path, change.before) != change.after
    }


def contender(record: StudyRecord) -> TrialRecord | None:
    """Return the trial that the verdict is about, whether it is promoted or not.

    Args:
        record: The study.

    Returns:
        The finals' winner, or the finished trial of lowest loss while there is none.
    """
    winner = _trial(record, record.verdict.winner) if record.verdict else None
    return winner or next(iter(ranked(record.trials)), None)


def measured_gain(record: StudyRecord) -> MeasuredGain | None:
    """Return what the promoted settings gained on fresh seeds, or None if nothing was proved better.

    Without the changes that are left at their default this is another, often smaller, gain than the winner's own, which
    the verdict is about.

    Args:
        record: The study.
    """
    verdict = record.verdict
    attribution = attribution_of(record)
    if verdict is None or verdict.word is not VerdictWord.BETTER:
        return None

    if attribution is not None and left_at_default(attribution):
        return MeasuredGain(
            seeds=attribution.seeds,
            baseline_loss=attribution.baseline_loss,
            loss=attribution.loss,
            baseline_metrics=_metrics_of_baseline(record, attribution),
            metrics=_metrics_of_promoted(record, attribution),
            interval=attribution.gain and attribution.gain[1:],
        )

    if verdict.baseline_loss is None or verdict.winner_loss is None:
        return None

    ends = (verdict.gain_low, verdict.gain_high)
    return MeasuredGain(
        interval=None if ends[0] is None or ends[1] is None else (ends[0], ends[1]),
        seeds=verdict.seeds,
        baseline_loss=verdict.baseline_loss,
        loss=verdict.winner_loss,
        baseline_metrics=verdict.baseline_metrics,
        metrics=verdict.winner_metrics,
    )


def _metrics_of_baseline(record: StudyRecord, attribution: Attribution) -> dict[str, float]:
    baseline = record.baseline
    runs = [run for run in record.finals if baseline and run.arm == baseline.number and run.stage == PROVE]
    return mean_metrics([run for run in runs if run.seed in attribution.seeds and run.loss is not None])


def _metrics_of_promoted(record: StudyRecord, attribution: Attribution) -> dict[str, float]:
    promoted = dict(attribution.params)
    runs = [run for run in record.finals if run.stage == ATTRIBUTE and dict(run.params) == promoted]
    return mean_metrics([run for run in runs if run.seed in attribution.seeds and run.loss is not None])
