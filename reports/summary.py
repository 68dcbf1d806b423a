"""What the page says first: the verdict, before and after, how sure, what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.core.objectives import TERMS
from autotune.core.records import TrialRecord, TrialResult, TrialStatus, Verdict, VerdictWord
from autotune.core.statistics import INTERVAL
from autotune.finals.verdict import failed_seeds
from autotune.promotion.next_step import is_at_work
from autotune.promotion.selection import best_settings, contender, measured_gain
from autotune.store.study_store import StudyRecord
from reports import tables
from reports.formats import count, duration, finite, local_time, number, percent, plain, signed

RUNNING, PARKED, STOPPED = "still running", "parked", "not finished"
# exp of more than this overflows a double.
_MAX_EXPONENT = 700.0


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


@dataclass(frozen=True)
class BeforeAfter:
    """One measure of quality for the default and for the winner; None where it is not known.

    Args:
        name: What is measured.
        before: The default's value.
        after: The winner's value.
        before_text: The default's value as written.
        after_text: The winner's value as written.
        change: The change in words.
        meaning: One sentence for someone who has never seen the measure.
        improved: Whether the change is for the better; None when unknown or nil.
    """

    name: str
    before: float | None
    after: float | None
    before_text: str
    after_text: str
    change: str
    meaning: str
    improved: bool | None


@dataclass(frozen=True)
class Cost:
    """What the study used.

    Args:
        wall_s: From the first start to the last end of anything stored.
        busy_s: Sum of all trainings.
        counts: Search trials by status, every status that occurred.
        finals: Finals' runs that ended.
        energy_j: The GPU's energy, or None when it was not measured.
    """

    wall_s: float
    busy_s: float
    counts: Mapping[str, int]
    finals: int
    energy_j: float | None

    @property
    def energy_text(self) -> str:
        """The energy in kWh, or why there is none."""
        return "not measured" if self.energy_j is None else f"{self.energy_j / 3.6e6:.2f} kWh"


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
    return VerdictSummary("inconclusive", "?", sentence, reason)


def failed_on(record: StudyRecord) -> int:
    """Return on how many of the seeds that were to prove it the winner failed."""
    winner = record.verdict.winner if record.verdict else None
    if winner is None:
        return 0
    return failed_seeds(winner, record.finals)


def _unfinished(record: StudyRecord) -> VerdictSummary:
    ended = sum(trial.status not in (TrialStatus.WAITING, TrialStatus.RUNNING) for trial in record.trials)
    planned = max(record.spec.budget.trials, len(record.trials))
    sentence = f"No verdict yet: {ended} of up to {count(planned, 'trial')} done"
    if record.finals:
        num_runs = sum(run.status is not TrialStatus.INTERRUPTED for run in record.finals)
        planned = max(record.spec.finals.runs, num_runs)
        sentence += f", and {_ended_finals(record)} of {count(planned, 'run')} on fresh seeds"
    sentence += "."

    reason = "The verdict comes after the finals, on random seeds that played no part in choosing the settings."
    word = _unfinished_word(record)
    if word != RUNNING:
        sentence += " Nothing is lost."

    return VerdictSummary(word, "…", sentence, reason)


def _unfinished_word(record: StudyRecord) -> str:
    if is_at_work(record):
        return RUNNING

    # One that parks ends its trainings; one that is killed leaves them as they were.
    left_running = any(run.status is TrialStatus.RUNNING for run in (*record.trials, *record.finals))
    return STOPPED if left_running else PARKED


def _ended_finals(record: StudyRecord) -> int:
    """Return how many of the finals' runs ended; an interrupted one is not counted, since it is run again."""
    ended = [run for run in record.finals if run.result is not None]
    return sum(run.status is not TrialStatus.INTERRUPTED for run in ended)


def _gain_words(record: StudyRecord, terms: str) -> str:
    """Return the gain of what is promoted, whatever the winner gained with changes that are not."""
    measured = measured_gain(record)
    gain = None if measured is None else finite(measured.gain)
    if measured is None or gain is None or not measured.baseline_loss:
        return f"the winner beat the default{terms} on fresh seeds"

    frac = percent(gain / measured.baseline_loss)
    return f"the loss fell by {frac} against the default{terms}, measured on fresh seeds"


def before_after(record: StudyRecord) -> list[BeforeAfter]:
    """Return loss, perplexity, accuracy and bits per byte of the default and of the best settings.

    They are those of the settings that are promoted. Where nothing was proved better they are those of the finals'
    winner, as `compared_name` then says.

    Args:
        record: The study. Without a verdict the default's single run is shown and nothing after it.

    Returns:
        Four measures, known or not.
        Source: perplexity = exp(cross-entropy in nats).
    """
    before_loss = tables.baseline_loss(record)
    before: Mapping[str, Any] = {}
    after_loss: float | None = None
    after: Mapping[str, Any] = {}

    measured = measured_gain(record)
    if measured is not None:
        before_loss = finite(measured.baseline_loss)
        before = measured.baseline_metrics
        after_loss = finite(measured.loss)
        after = measured.metrics
    elif record.verdict is not None:
        before = record.verdict.baseline_metrics
        after_loss = finite(record.verdict.winner_loss)
        after = record.verdict.winner_metrics

    before = before or _last_metrics(record.baseline)

    accuracy = (finite(before.get("val_accuracy")), finite(after.get("val_accuracy")))
    bpb = (finite(before.get("val_bpb")), finite(after.get("val_bpb")))

    return [
        _measure("Loss", before_loss, after_loss, "How surprised the model is by unseen text; lower is better."),
        _measure(
            "Perplexity", _exp(before_loss), _exp(after_loss),
            "Among how many word pieces the model hesitates; lower is better.",
        ),
        _measure("Accuracy", *accuracy, "How often its first guess of the next token is right; higher is better."),
        _measure("Bits per byte", *bpb, "The loss for each byte of text, whatever the tokenizer; lower is better."),
    ]  # fmt: skip


def compared_name(record: StudyRecord) -> str:
    """Return what `before_after` compares with the default: the best settings, or a winner that is not promoted."""
    decided = record.verdict is not None and record.verdict.word is not VerdictWord.BETTER
    return "winner, not promoted" if decided and contender(record) is not None else "best"


def doubt(record: StudyRecord) -> str:
    """Return why a difference in `before_after` is not to be relied on, or ""."""
    if measured_gain(record) is not None:
        return ""
    return "where both finished" if failed_on(record) else "may be chance"


def _last_metrics(trial: TrialRecord | None) -> Mapping[str, Any]:
    if trial is None or trial.loss is None or trial.result is None:
        return {}
    return trial.result.points[-1].metrics


def _exp(loss: float | None) -> float | None:
    if loss is None or loss > _MAX_EXPONENT:
        return None
    return math.exp(loss)


def _measure(name: str, before: float | None, after: float | None, meaning: str) -> BeforeAfter:
    change = ""
    improved: bool | None = None
    if before is not None and after is not None:
        more_is_better = name == "Accuracy"
        if after != before:
            improved = (after > before) is more_is_better

        if more_is_better:
            change = _compared(100 * (after - before), "points")
        elif before:
            change = _compared(100 * (after - before) / before, "%")

    return BeforeAfter(name, before, after, _written(name, before), _written(name, after), change, meaning, improved)


def _compared(amount: float, unit: str) -> str:
    shown = f"{abs(amount):.1f}"
    if shown == "0.0":
        return "unchanged"

    direction = "higher" if amount > 0 else "lower"
    return f"{shown} {unit} {direction}"


def _written(name: str, value: float | None) -> str:
    if name == "Accuracy":
        return percent(value)

    digits = {"Loss": 3, "Perplexity": 1, "Bits per byte": 3}
    return number(value, digits[name])


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

    lines += _noise_lines(verdict)
    lines += _provable(record)

    min_gain = finite(verdict.min_gain)
    if min_gain is not None:
        lines.append(f"The study calls a gain worth having from {number(min_gain)} upwards.")

    if record.spec.objective == "loss_at_equal_seconds":
        lines.append(
            f"Each choice of settings trained on as many tokens as it can read while the default reads "
            f"{record.spec.budget.tokens:,}, by the speeds measured."
        )

    return lines or ["Nothing was measured twice, so nothing can be said about chance."]


def _of_promoted(record: StudyRecord) -> list[str]:
    """Return what was measured of the settings promoted, where they are not all of the winner's."""
    best = best_settings(record)
    measured = measured_gain(record)
    if best is None or measured is None or not best.left_at_default:
        return []

    left = count(len(best.left_at_default), "change")
    seeds = count(len(measured.seeds), "fresh seed")
    return [
        f"The settings promoted leave {left} of the winner at default. Their gain in loss on {seeds} was "
        f"{signed(measured.gain)}: {number(measured.loss)} after the default's {number(measured.baseline_loss)}."
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
    lines.append(f"Measured gain in loss{where}: {signed(gain)}; {INTERVAL} {signed(low)} to {signed(high)}.")
    if not num_failed:
        lines.append(_interval_words(low, high))
    return lines


def _noise_lines(verdict: Verdict) -> list[str]:
    sigma = finite(verdict.sigma)
    if sigma is None:
        return []

    gain = finite(verdict.gain)
    times = ""
    if gain is not None and gain > 0 and sigma > 0:
        times = f"; the gain is {gain / sigma:.1f} times that"
    return [f"Noise: the same settings on another seed change the loss by about ±{number(sigma)}{times}."]


def _provable(record: StudyRecord) -> list[str]:
    noise = record.attributes.noise
    gain = finite(noise.provable_gain) if noise else None
    if noise is None or gain is None or not noise.pairs:
        return []

    most = f"{count(noise.pairs, 'pair')} of runs, the most that this study trains,"
    return [f"With this noise, {most} can prove a gain of {number(gain)} or more."]


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

    return [
        *_provable(record),
        f"So far the lowest of {count(done, 'finished trial')} is {number(lowest.loss)} (trial {lowest.number}). "
        "The lowest of many always looks better than it is, so it is no result.",
    ]


def cost(record: StudyRecord) -> Cost:
    """Return hours, trials by status and energy.

    Args:
        record: The study.
    """
    counts: dict[str, int] = {}
    for trial in record.trials:
        counts[trial.status.value] = counts.get(trial.status.value, 0) + 1

    results = [trial.result for trial in (*record.trials, *record.finals) if trial.result is not None]
    busy_s = sum(result.seconds for result in results)
    return Cost(_wall_s(results, busy_s), busy_s, counts, _ended_finals(record), _energy_j(record))


def _energy_j(record: StudyRecord) -> float | None:
    return tables.energy_j(tables.gpu_table(record))


def _wall_s(results: list[TrialResult], busy_s: float) -> float:
    """Return the seconds from the first start to the last end; `busy_s` where no start is known."""
    starts = []
    ends = []
    for result in results:
        started_at = local_time(result.started_at)
        if started_at is not None:
            starts.append(started_at.timestamp())
            ends.append(started_at.timestamp() + result.seconds)

    if not starts:
        return busy_s
    return max(ends) - min(starts)


def cost_rows(spent: Cost) -> list[tuple[str, str]]:
    """Return the cost as names and words, in the order of the page."""
    failed = sum(spent.counts.get(status.value, 0) for status in TrialStatus if status.is_failure)
    waiting = sum(spent.counts.get(status.value, 0) for status in (TrialStatus.WAITING, TrialStatus.RUNNING))

    # Several devices train at the same time, and a part is never larger than the whole.
    training = "Of which training" if spent.busy_s <= spent.wall_s else "Training, all devices added"

    return [
        ("From start to end", duration(spent.wall_s)),
        (training, duration(spent.busy_s)),
        ("Trials", str(sum(spent.counts.values()))),
        ("Finished", str(spent.counts.get("finished", 0))),
        ("Stopped early (pruned)", str(spent.counts.get("pruned", 0))),
        ("Failed", str(failed)),
        *_when_any("Interrupted and run again", spent.counts.get(TrialStatus.INTERRUPTED, 0)),
        *_when_any("Not ended yet", waiting),
        ("Runs on fresh seeds", str(spent.finals)),
        ("GPU energy", spent.energy_text),
    ]


def _when_any(name: str, amount: int) -> list[tuple[str, str]]:
    return [(name, str(amount))] if amount else []
