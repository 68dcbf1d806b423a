"""How sure the verdict is: seeds, noise and interval in sentences."""

from __future__ import annotations

from autotune.core.metric import Metric
from autotune.core.records import Verdict
from autotune.core.statistics import INTERVAL
from autotune.promotion.selection import best_settings, contender, measured_gain
from autotune.store.study_record import StudyRecord
from reports.formats import count, finite, plain
from reports.sentences.machines import mixed_lines
from reports.sentences.steering import steering_doubts
from reports.sentences.verdict import failed_on


def how_sure(record: StudyRecord) -> list[str]:
    """Return sentences on seeds, noise and interval.

    Args:
        record: The study.
    """
    verdict = record.verdict
    if verdict is None:
        return _not_yet_sure(record)

    lines = [*_of_promoted(record), *_of_winner(record, verdict)]
    if verdict.seeds:
        pairs = count(len(verdict.seeds), "pair of runs", "pairs of runs")
        lines.append(
            f"The winner and the default were trained again in {pairs}, each pair on a random seed that "
            "played no part in choosing the winner."
        )

    lines += _noise_lines(verdict, record.attributes.metric)
    lines += _provable(record)

    min_gain = finite(verdict.min_gain)
    if min_gain is not None:
        shown = record.attributes.metric.difference(min_gain)
        lines.append(f"Gains below {shown} are treated as too small to matter.")

    metric = record.attributes.metric
    if record.spec.objective == "loss_at_equal_seconds":
        lines.append(
            f"Each trial trained for as many {plain(metric.budget_unit)} as its settings get through while the default "
            f"gets through {record.spec.budget.tokens:,}, by the measured speeds."
        )

    lines += mixed_lines(record)
    lines += steering_doubts(record)
    return lines or ["Nothing was measured twice, so nothing can be said about chance."]


def _of_promoted(record: StudyRecord) -> list[str]:
    """Return what was measured of the settings promoted, where they are not all of the winner's."""
    best = best_settings(record)
    measured = measured_gain(record)
    if best is None or measured is None or not best.left_at_default:
        return []

    metric = record.attributes.metric
    num_left = len(best.left_at_default)
    seeds = count(len(measured.seeds), "fresh seed")
    return [
        f"The promoted settings leave {num_left} of the winner's changes at default. Their gain in "
        f"{plain(metric.name)} on {seeds} was {metric.signed(measured.gain)}: "
        f"{metric.number(measured.loss)}, where the default had {metric.number(measured.baseline_loss)}."
    ]


def _of_winner(record: StudyRecord, verdict: Verdict) -> list[str]:
    """Return what was measured of the winner with all its changes: failures, interval and gain."""
    lines = []
    num_failed = failed_on(record)
    if num_failed:
        seeds = count(num_failed, "fresh seed")
        lines.append(f"The winner failed on {seeds}: whatever it gains on others, nobody could rely on it.")

    gain = finite(verdict.gain)
    low = finite(verdict.gain_low)
    high = finite(verdict.gain_high)
    if gain is None or low is None or high is None:
        return lines

    where = ""
    if num_failed:
        where = " where both finished"
    elif _of_promoted(record):
        where = " with all changes of the winner"

    # The interval is explained right after the gain that it belongs to, so that nobody takes it for another's.
    metric = record.attributes.metric
    ends = f"{metric.signed(low)} to {metric.signed(high)}"
    lines.append(f"Measured gain in {plain(metric.name)}{where}: {metric.signed(gain)}; {INTERVAL} {ends}.")
    if not num_failed:
        lines.append(_interval_words(low, high))
    return lines


def _noise_lines(verdict: Verdict, metric: Metric) -> list[str]:
    sigma = finite(verdict.sigma)
    if sigma is None:
        return []

    gain = finite(verdict.gain)
    times = ""
    if gain is not None and gain > 0 and sigma > 0:
        times = f"; the gain is {gain / sigma:.1f} times that"
    moved = metric.difference(sigma)
    return [f"Noise: with the same settings, another seed changes the {plain(metric.name)} by about ±{moved}{times}."]


def _provable(record: StudyRecord) -> list[str]:
    noise = record.attributes.noise
    gain = finite(noise.provable_gain) if noise else None
    if noise is None or gain is None or not noise.pairs:
        return []

    most = f"{count(noise.pairs, 'pair')} of runs, the most that this study trains,"
    return [f"With this noise, {most} can prove a gain of {record.attributes.metric.difference(gain)} or more."]


def _interval_words(low: float, high: float) -> str:
    if low > 0:
        return f"The whole {INTERVAL} lies above zero: chance alone is an unlikely explanation."
    if high < 0:
        return f"The whole {INTERVAL} lies below zero: the winner of the search is worse than the default."
    return f"The {INTERVAL} contains zero: the difference may be chance."


def _not_yet_sure(record: StudyRecord) -> list[str]:
    done = sum(trial.loss is not None for trial in record.trials)
    lowest = contender(record)
    if lowest is None or lowest.loss is None or done < 2:
        return ["Not sure of anything yet: too little has finished."]

    metric = record.attributes.metric
    return [
        *_provable(record),
        f"So far the best {plain(metric.name)} of {count(done, 'finished trial')} is {metric.number(lowest.loss)} "
        f"(trial {lowest.number}). The best of many always looks better than it is, so it is not a result yet.",
    ]
