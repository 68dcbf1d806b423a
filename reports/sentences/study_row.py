"""One row per study, as comparisons and the timeline show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autotune.core.metric import Metric
from autotune.promotion.selection import best_settings
from autotune.store.study_record import StudyRecord
from reports.formats import count, finite, plain, signed_percent
from reports.sentences.before_after import BeforeAfter, before_after
from reports.sentences.changes import Change, change_words, changes_tried, setting_changes
from reports.sentences.cost import cost, own_trials
from reports.sentences.verdict import failed_on, verdict_summary

_LEFT_OUT = ("Bits per byte",)
"""What a row has no room for: it moves as the loss does."""


@dataclass(frozen=True)
class StudyRow:
    """One study in a comparison or in the timeline.

    Args:
        name: The study.
        created: When it began, ISO 8601.
        verdict: The verdict in a word.
        metric: What its trials report.
        before: What the default came to, in the metric's own sign, or None.
        after: The same of the settings promoted on the same fresh seeds, or of a winner that is not promoted; or None.
        gain_frac: By how much the latter is better, as a share of the default's; None if that is not known.
        gain_low_frac: Lower end of the gain's 95 % interval over `before`; None where it is not known, or is that of a
            winner of which some changes are not promoted.
        gain_high_frac: Upper end, or None.
        interval: The gain's 95 % interval in words.
        further: What else is measured, in words by its name: "a → b", or "–".
        sure: How sure the gain is, in a few words.
        trials: Search trials of its own.
        hours: Hours of training.
        energy: The GPU's energy in words.
        key_change: The changed settings in words.
    """

    name: str
    created: str
    verdict: str
    metric: Metric
    before: float | None
    after: float | None
    gain_frac: float | None
    gain_low_frac: float | None
    gain_high_frac: float | None
    interval: str
    further: Mapping[str, str]
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
    def measured(self) -> str:
        """What the default came to and the winner: "5.0200 → 4.6400"."""
        sides = (self.before, self.after)
        return _arrow([None if side is None else self.metric.number(self.metric.value(side)) for side in sides])

    @property
    def name_of_metric(self) -> str:
        """What its trials report, as its trainer calls it."""
        return plain(self.metric.name)

    @property
    def moved(self) -> str:
        """By how much that moved: "−7.6 %", or "–"."""
        if self.gain_frac is None:
            return "–"
        return signed_percent(self.metric.value(-self.gain_frac))

    @property
    def sentence(self) -> str:
        """One line of a diary: "loss a -> b, -x %, key change"."""
        if self.before is None or self.after is None:
            return f"{self.verdict}, no proven {self.name_of_metric}"

        return f"{self.name_of_metric} {self.measured}, {self.moved}, {self.verdict}: {self.key_change}"


def names_of_further(rows: Iterable[StudyRow]) -> list[str]:
    """Return what else the studies measured, each name once, as columns of a table."""
    return list(dict.fromkeys(name for row in rows for name in row.further))


def name_of_metrics(rows: Iterable[StudyRow]) -> str:
    """Return what the column of the metric is called: its name, or "result" where studies have several."""
    names = {row.name_of_metric for row in rows}
    return names.pop() if len(names) == 1 else "result"


def study_row(record: StudyRecord) -> StudyRow:
    """Return a study's row.

    Args:
        record: The study: running, failed or done.
    """
    verdict = record.verdict
    spent = cost(record)
    metric = record.attributes.metric
    judged, *further = before_after(record)

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
        interval = f"{metric.signed(low)} to {metric.signed(high)}"

    before = judged.before
    gain = None
    if before is not None and judged.after is not None:
        gain = metric.value(before) - metric.value(judged.after)

    return StudyRow(
        name=plain(record.name),
        created=plain(record.created_at, 40),
        verdict=verdict_summary(record).word,
        metric=metric,
        before=before,
        after=judged.after,
        gain_frac=_share(gain, before),
        gain_low_frac=_share(low, before),
        gain_high_frac=_share(high, before),
        interval=interval,
        further={row.name.lower(): _known(row) for row in further if row.name not in _LEFT_OUT},
        sure=_how_sure(record),
        trials=len(own_trials(record)),
        hours=spent.busy_s / 3600,
        energy=spent.energy_text,
        key_change=_key_change(record),
    )


def _share(part: float | None, whole: float | None) -> float | None:
    """Return a part as a share of the whole's size, or None where one of them is not known or the whole is 0."""
    if part is None or not whole:
        return None
    return part / abs(whole)


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


def _known(measure: BeforeAfter) -> str:
    before = None if measure.before is None else measure.before_text
    after = None if measure.after is None else measure.after_text
    return _arrow([before, after])


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

    gain = " to ".join(signed_percent(end / abs(before)) for end in (low, high))
    best = best_settings(record)
    whose = "gain of the winner with all its changes" if best and best.left_at_default else "gain"
    return f"{word}: {whose} {gain}, {count(len(verdict.seeds), 'pair')} of runs"
