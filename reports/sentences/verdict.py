"""The verdict in a word and a sentence."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.core.objectives import TERMS
from autotune.core.records import TrialStatus, VerdictWord
from autotune.finals.verdict import failed_seeds
from autotune.promotion.next_step import is_at_work
from autotune.promotion.selection import measured_gain
from autotune.store.study_record import StudyRecord
from reports.formats import change_size, count, finite, plain

_RUNNING = "still running"
_PARKED = "parked"
_STOPPED = "not finished"


@dataclass(frozen=True)
class VerdictSummary:
    """The verdict as a reader meets it.

    Args:
        word: better / no clear gain / inconclusive / failed / still running / parked / not finished.
        icon: A sign that tells the words apart without colour.
        sentence: One sentence in plain words.
        reason: What the finals said, or "" where the sentence or "How sure" says it.
    """

    word: str
    icon: str
    sentence: str
    reason: str = ""


def verdict_summary(record: StudyRecord) -> VerdictSummary:
    """Return the verdict sentence, word and icon.

    Args:
        record: The study; only its verdict speaks of a gain, never its lowest loss.
    """
    verdict = record.verdict
    if verdict is None:
        return _unfinished(record)

    reason = plain(verdict.reason)
    terms = TERMS[record.spec.objective]
    if verdict.word is VerdictWord.FAILED:
        return VerdictSummary("failed", "✕", f"Nothing could be compared: {reason}.")
    if verdict.word is VerdictWord.BETTER:
        return VerdictSummary("better", "✓", f"Better settings were found: {_gain_words(record, terms)}.")
    if verdict.word is VerdictWord.NO_CLEAR_GAIN:
        sentence = f"The default settings are about as good as anything tried{terms}."
        return VerdictSummary("no clear gain", "=", sentence, reason)

    num_failed = failed_on(record)
    if num_failed:
        seeds = count(num_failed, "fresh seed")
        return VerdictSummary("inconclusive", "?", f"The winner failed on {seeds}, so it is not called better.")

    sentence = "There may be a gain, but these runs cannot tell it from chance."
    if finite(verdict.gain) is None:
        sentence = "No gain was measured, so it is not known whether there is one."
    return VerdictSummary("inconclusive", "?", sentence, reason)


def failed_on(record: StudyRecord) -> int:
    """Return on how many of the seeds that were to prove it the winner failed."""
    winner = record.verdict.winner if record.verdict else None
    if winner is None:
        return 0
    return failed_seeds(winner, record.finals)


def _unfinished(record: StudyRecord) -> VerdictSummary:
    ended = sum(trial.status not in (TrialStatus.WAITING, TrialStatus.RUNNING) for trial in record.trials)
    planned = max(record.spec.most_trials, len(record.trials))
    sentence = f"No verdict yet: {ended} of up to {count(planned, 'trial')} done"
    if record.finals:
        num_runs = sum(run.status is not TrialStatus.INTERRUPTED for run in record.finals)
        planned = max(record.spec.finals.runs, num_runs)
        sentence += f", and {ended_finals(record)} of {count(planned, 'run')} on fresh seeds"
    sentence += "."

    reason = "The verdict comes after the finals, which use random seeds that played no part in choosing the settings."
    word = _unfinished_word(record)
    if word != _RUNNING:
        sentence += " Nothing is lost."

    return VerdictSummary(word, "…", sentence, reason)


def _unfinished_word(record: StudyRecord) -> str:
    if is_at_work(record):
        return _RUNNING

    # One that parks ends its trainings; one that is killed leaves them as they were.
    left_running = any(run.status is TrialStatus.RUNNING for run in (*record.trials, *record.finals))
    if left_running:
        return _STOPPED
    return _PARKED


def ended_finals(record: StudyRecord) -> int:
    """Return how many of the finals' runs ended; an interrupted one is not counted, since it is run again."""
    ended = [run for run in record.finals if run.result is not None]
    return sum(run.status is not TrialStatus.INTERRUPTED for run in ended)


def _gain_words(record: StudyRecord, terms: str) -> str:
    """Return the gain of what is promoted, whatever the winner gained with changes that are not."""
    measured = measured_gain(record)
    gain = None if measured is None else finite(measured.gain)
    if measured is None or gain is None or not measured.baseline_loss:
        return f"the winner beat the default{terms} on fresh seeds"

    metric = record.attributes.metric
    share = f"{change_size(100 * gain / measured.baseline_loss)} %"
    side = metric.compared(gain)
    return f"{plain(metric.name)} is {share} {side} the default's{terms}, measured on fresh seeds"
