"""Loss, perplexity, accuracy and bits per byte of the default and of the best settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.core.metric import Metric
from autotune.core.records import TrialRecord, VerdictWord
from autotune.promotion.selection import contender, measured_gain
from autotune.store.study_record import StudyRecord
from reports.formats import MISSING, change_size, finite, number, percent, plain
from reports.sentences.verdict import failed_on
from reports.tables.finals import baseline_loss

# exp of more than this overflows a double.
_MAX_EXPONENT = 700.0


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


def before_after(record: StudyRecord) -> list[BeforeAfter]:
    """Return loss, perplexity, accuracy and bits per byte of the default and of the best settings.

    They are those of the settings that are promoted. Where nothing was proved better they are those of the finals'
    winner, as `compared_name` then says.

    Args:
        record: The study. Without a verdict the default's single run is shown and nothing after it.

    Returns:
        Four measures, known or not; of a trainer with a metric of its own that and what it wants to be shown.
        Source: perplexity = exp(cross-entropy in nats).
    """
    before_loss = baseline_loss(record)
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
    if not record.attributes.metric.of_text:
        return _of_another_metric(record.attributes.metric, (before_loss, after_loss), before, after)

    accuracy = (finite(before.get("val_accuracy")), finite(after.get("val_accuracy")))
    bpb = (finite(before.get("val_bpb")), finite(after.get("val_bpb")))

    return [
        _measure("Loss", before_loss, after_loss, "How surprised the model is by unseen text; lower is better."),
        _measure(
            "Perplexity", _exp(before_loss), _exp(after_loss),
            "How many next word pieces it is effectively choosing between; lower is better.",
        ),
        _measure("Accuracy", *accuracy, "How often its first guess of the next token is right; higher is better."),
        _measure("Bits per byte", *bpb, "The loss per byte of text, whichever tokenizer cuts it up; lower is better."),
    ]  # fmt: skip


def _of_another_metric(
    metric: Metric, losses: tuple[float | None, float | None], before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[BeforeAfter]:
    """Return what a trainer reports, and what else it wants to be shown, whose better side is not known."""
    first, last = (None if loss is None else metric.value(loss) for loss in losses)
    texts = [MISSING if loss is None else metric.number(loss) for loss in losses]
    improved = None
    if first is not None and last is not None and first != last:
        improved = (last > first) is metric.maximize

    unit = f", in {plain(metric.unit)}" if metric.unit else ""
    meaning = f"Measured on held-out data{unit}; {'higher' if metric.maximize else 'lower'} is better."
    change = _compared_share(first, last)
    rows = [BeforeAfter(_title(metric.name), first, last, texts[0], texts[1], change, meaning, improved)]

    for key, words in metric.also.items():
        first, last = finite(before.get(key)), finite(after.get(key))
        texts = [MISSING if value is None else f"{value:.4g}" for value in (first, last)]
        change = _compared_share(first, last)
        rows.append(BeforeAfter(_title(words), first, last, texts[0], texts[1], change, "", None))
    return rows


def _title(words: str) -> str:
    words = plain(words)
    return words[:1].upper() + words[1:]


def _compared_share(before: float | None, after: float | None) -> str:
    if not before or after is None:
        return ""
    return _compared(100 * (after - before) / abs(before), "%")


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
    if not amount:
        return "unchanged"

    direction = "higher" if amount > 0 else "lower"
    return f"{change_size(amount)} {unit} {direction}"


def _written(name: str, value: float | None) -> str:
    if name == "Accuracy":
        return percent(value)

    digits = {"Loss": 3, "Perplexity": 1, "Bits per byte": 3}
    return number(value, digits[name])
