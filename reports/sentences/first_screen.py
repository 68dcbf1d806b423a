"""What a reader in a hurry needs beside the verdict: what is promoted, how good that is, and what it cost."""

from __future__ import annotations

from autotune.core.metric import Metric
from autotune.core.records import TrialStatus, VerdictWord
from autotune.core.statistics import INTERVAL
from autotune.promotion.selection import best_settings, measured_gain
from autotune.store.study_record import StudyRecord
from reports.formats import count, duration, finite, plain
from reports.sentences.cost import cost
from reports.tables.finals import baseline_loss


def first_screen(record: StudyRecord) -> list[tuple[str, str]]:
    """Return names and words, in the order of the page.

    Args:
        record: The study.
    """
    rows = [("Promoted", _promoted(record)), *_not_promoted(record), *_full_run(record)]
    return [*rows, ("Cost", _cost(record))]


def _promoted(record: StudyRecord) -> str:
    best = best_settings(record)
    if best is None or not best.is_decided:
        return "nothing" if record.verdict else "nothing yet: fresh seeds decide it"

    metric = record.attributes.metric
    measured = measured_gain(record)
    if measured is None:
        loss = baseline_loss(record)
        told = "" if loss is None else f": {plain(metric.words(loss))}"
        return f"the default settings{told}"

    whose = f"the winner (trial {best.trial.number})"
    if best.left_at_default:
        whose += f" without {len(best.left_at_default)} of its changes"
    seeds = count(len(measured.seeds), "fresh seed")
    gain = _gain(measured.gain, measured.interval, metric)
    return f"{whose}: {plain(metric.words(measured.loss))} on {seeds}; gain {gain}"


def _not_promoted(record: StudyRecord) -> list[tuple[str, str]]:
    """Return what the winner gained where that proved nothing."""
    verdict = record.verdict
    gain = finite(verdict.gain) if verdict else None
    if verdict is None or verdict.word is VerdictWord.BETTER or verdict.winner is None or gain is None:
        return []

    ends = finite(verdict.gain_low), finite(verdict.gain_high)
    interval = None if ends[0] is None or ends[1] is None else (ends[0], ends[1])
    return [
        ("Not promoted", f"the winner (trial {verdict.winner}): gain {_gain(gain, interval, record.attributes.metric)}")
    ]


def _gain(gain: float, interval: tuple[float, float] | None, metric: Metric) -> str:
    if interval is None:
        return metric.signed(gain)
    return f"{metric.signed(gain)} ({INTERVAL} {metric.signed(interval[0])} to {metric.signed(interval[1])})"


def _full_run(record: StudyRecord) -> list[tuple[str, str]]:
    full = record.attributes.full_run
    loss = finite(full.val_loss) if full else None
    if full is None or loss is None or full.status != TrialStatus.FINISHED:
        return []

    tokens = full.tokens_seen or full.tokens
    took = f" in {duration(full.seconds)}" if full.seconds else ""
    metric = record.attributes.metric
    return [("Full run", f"{plain(metric.words(loss))} after {plain(metric.budget(tokens))}{took}")]


def _cost(record: StudyRecord) -> str:
    spent = cost(record)
    words = f"{duration(spent.wall_s)}, {count(sum(spent.counts.values()), 'trial')}"
    for each in spent.taken:
        words += f", {each.taken} more taken along from {plain(each.study)}"
    if spent.finals:
        words += f", {count(spent.finals, 'run')} on fresh seeds"
    if spent.long_s:
        words += f", {duration(spent.long_s)} for the full run"
    if spent.energy_j is not None:
        words += f", {spent.energy_text}"
    return words
