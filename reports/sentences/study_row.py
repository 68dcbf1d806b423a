"""One row per study, as comparisons and the timeline show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.promotion.selection import best_settings
from autotune.store.study_store import StudyRecord
from reports.formats import count, finite, number, plain, signed
from reports.sentences.before_after import BeforeAfter, before_after
from reports.sentences.changes import Change, change_words, changes_tried, setting_changes
from reports.sentences.cost import cost, own_trials
from reports.sentences.verdict import failed_on, verdict_summary


@dataclass(frozen=True)
class StudyRow:
    """One study in a comparison or in the timeline.

    Args:
        name: The study.
        created: When it began, ISO 8601.
        verdict: The verdict in a word.
        before: The default's loss, nats per token, or None.
        after: The loss of the settings promoted on the same fresh seeds, or of a winner that is not promoted; or None.
        gain_frac: (before - after) / before, or None.
        gain_low_frac: Lower end of the gain's 95 % interval over `before`; None where it is not known, or is that of a
            winner of which some changes are not promoted.
        gain_high_frac: Upper end, or None.
        interval: The gain's 95 % interval in words.
        perplexity: "a → b", or "–".
        accuracy: "a → b", or "–".
        sure: How sure the gain is, in a few words.
        trials: Search trials of its own.
        hours: Hours of training.
        energy: The GPU's energy in words.
        key_change: The changed settings in words.
    """

    name: str
    created: str
    verdict: str
    before: float | None
    after: float | None
    gain_frac: float | None
    gain_low_frac: float | None
    gain_high_frac: float | None
    interval: str
    perplexity: str
    accuracy: str
    sure: str
    trials: int
    hours: float
    energy: str
    key_change: str

    @property
    def date(self) -> str:
        """The day on which it began, or "–"."""
        return self.created[:10] or "–"

    @property
    def loss(self) -> str:
        """The default's loss and the winner's: "5.0200 → 4.6400"."""
        return _arrow([_number_or_none(self.before), _number_or_none(self.after)])

    @property
    def moved(self) -> str:
        """By how much the loss moved: "−7.6 %", or "–"."""
        if self.gain_frac is None:
            return "–"
        return f"{signed(-100 * self.gain_frac, 1)} %"

    @property
    def sentence(self) -> str:
        """One line of a diary: "loss a -> b, -x %, key change"."""
        if self.before is None or self.after is None:
            return f"{self.verdict}, no proven loss"

        return f"loss {self.loss}, {self.moved}, {self.verdict}: {self.key_change}"


def study_row(record: StudyRecord) -> StudyRow:
    """Return a study's row.

    Args:
        record: The study: running, failed or done.
    """
    verdict = record.verdict
    spent = cost(record)
    loss, *further = before_after(record)
    measures = {row.name: row for row in further}

    # The interval is that of the winner with all its changes: it has no place beside a gain without some of them.
    best = best_settings(record)
    is_whole = best is None or not best.left_at_default
    low = None
    high = None
    if verdict is not None and is_whole:
        low = finite(verdict.gain_low)
        high = finite(verdict.gain_high)

    interval = "–"
    if low is not None and high is not None:
        interval = f"{signed(low)} to {signed(high)}"

    before = loss.before
    gain = None
    if before is not None and loss.after is not None:
        gain = before - loss.after

    return StudyRow(
        name=plain(record.name),
        created=plain(record.created_at, 40),
        verdict=verdict_summary(record).word,
        before=before,
        after=loss.after,
        gain_frac=_share(gain, before),
        gain_low_frac=_share(low, before),
        gain_high_frac=_share(high, before),
        interval=interval,
        perplexity=_known(measures.get("Perplexity")),
        accuracy=_known(measures.get("Accuracy")),
        sure=_how_sure(record),
        trials=len(own_trials(record)),
        hours=spent.busy_s / 3600,
        energy=spent.energy_text,
        key_change=_key_change(record),
    )


def _share(part: float | None, whole: float | None) -> float | None:
    """Return a part as a share of the whole, or None where one of them is not known or the whole is 0."""
    if part is None or not whole:
        return None
    return part / whole


def _key_change(record: StudyRecord) -> str:
    """Return the changed settings in words; of a winner that is not promoted, what was tried."""
    tried = changes_tried(record)
    if tried:
        return f"tried {_listed(tried)}"

    changes = setting_changes(record)
    if not changes:
        return "–"

    changed = [change for change in changes if change.changed]
    return _listed(changed) or "nothing changed"


def _listed(changes: Sequence[Change]) -> str:
    return ", ".join(f"{change.path} {change_words(change)}" for change in changes)


def _known(measure: BeforeAfter | None) -> str:
    if measure is None:
        return _arrow([None, None])
    before = None if measure.before is None else measure.before_text
    after = None if measure.after is None else measure.after_text
    return _arrow([before, after])


def _number_or_none(value: float | None) -> str | None:
    return None if value is None else number(value)


def _arrow(sides: Sequence[str | None]) -> str:
    """Return "a → b" with a dash for what is not known, or only a dash where nothing is."""
    if not any(sides):
        return "–"
    return " → ".join(side or "–" for side in sides)


def _how_sure(record: StudyRecord) -> str:
    word = verdict_summary(record).word
    verdict = record.verdict
    if verdict is None:
        return word

    num_failed = failed_on(record)
    if num_failed:
        return f"{word}: the winner failed on {count(num_failed, 'fresh seed')}"

    before = finite(verdict.baseline_loss)
    low = finite(verdict.gain_low)
    high = finite(verdict.gain_high)
    if not before or low is None or high is None:
        return word

    gain = " to ".join(f"{signed(100 * end / before, 1)} %" for end in (low, high))
    best = best_settings(record)
    whose = "gain of the winner with all its changes" if best and best.left_at_default else "gain"
    return f"{word}: {whose} {gain}, {count(len(verdict.seeds), 'pair')} of runs"
