"""Which change gave what in sentences, and what is left at its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from autotune.core.metric import Metric
from autotune.core.records import VerdictWord
from autotune.core.statistics import INTERVAL
from autotune.core.study_results import Attribution
from autotune.promotion.selection import attribution_of
from autotune.store.study_record import StudyRecord
from reports.formats import count, percent, plain
from reports.tables.attribution import COUNTS, TIE, WORSE, attribution_table

TITLE = "Which change gave what"

# How the figure is to be read, for someone who has never seen one like it.
READING = (
    "A bar shows what a change brought when the changes were made one after the other, from the default (top) to the "
    "winner; a diamond shows how much is lost when that change alone is taken back. Thin lines are "
    f"{INTERVAL}s: where both reach zero, the change may do nothing."
)


def why_none(record: StudyRecord) -> str:
    """Return why it is not known which change gave what.

    Args:
        record: A study for which `attribution_of` gives None.
    """
    verdict = record.verdict
    if verdict is None:
        return "that is measured after the finals"
    if verdict.word is not VerdictWord.BETTER:
        return "no settings were proved better than the default, so there is no gain to explain"
    if not record.spec.finals.attribute_seeds:
        return "the study file switches it off (finals.attribute_seeds = 0)"

    stored = record.attributes.why_no_attribution
    if stored:
        return stored

    # A study of an earlier version stored no reason.
    if record.run.best_config.exists():
        return "it was not measured, so all changes are kept"
    return "the trainings that it needs have not finished yet"


def sentences(attribution: Attribution, metric: Metric) -> list[str]:
    """Return in plain words what each change gave and what became of the ties.

    Args:
        attribution: As `attribution_of` gives it.
        metric: What trials report.
    """
    table = attribution_table(attribution)
    gain = metric.signed(attribution.baseline_loss - attribution.winner_loss)
    if len(table) == 1:
        only = plain(table["path"][0])
        return [f"{only} is the only change, so the whole gain of {gain} in {plain(metric.name)} comes from it."]

    kept = table[~table["left"]]
    seeds = count(len(attribution.seeds), "fresh seed")
    lines = _given(kept[kept["word"] == COUNTS], f"{gain} gained in {plain(metric.name)} on {seeds}", metric)

    ties = _left_as(attribution, TIE)
    if ties:
        lines.append(f"No difference could be measured for {listed(ties)}, so {_stay(ties)}.")
    worse = _left_as(attribution, WORSE)
    if worse:
        lines.append(f"The {plain(metric.name)} was {metric.worse} with {listed(worse)}, so {_stay(worse)}.")

    together = list(kept.loc[kept["word"] != COUNTS, "path"])
    if together:
        lines.append(
            f"No gain could be measured for {listed(together)} alone, but together they matter, so they are kept."
        )
    needed = list(table.loc[table["harm"].isna(), "path"])
    if needed:
        lines.append(f"Without {listed(needed)}, the winner cannot be trained.")

    return lines


def _given(counting: pd.DataFrame, gain: str, metric: Metric) -> list[str]:
    """Return what the changes that count gave, largest first; of some that is not known."""
    known = counting[counting["gain"].notna()].sort_values("gain", ascending=False, kind="stable")
    parts: list[str] = []
    for path, value in zip(known["path"], known["gain"], strict=True):
        if not parts:
            parts.append(f"{plain(path)} gave {metric.signed(value)} of the {gain}")
        else:
            parts.append(f"{plain(path)} {metric.signed(value)}")

    lines = []
    if parts:
        others = listed(parts[1:])
        line = ", ".join([parts[0], others]) if others else parts[0]
        lines.append(f"{line}.")

    unknown = list(counting.loc[counting["gain"].isna(), "path"])
    if unknown:
        lines.append(f"What {listed(unknown)} gave is not known, since a training needed to measure it failed.")

    return lines


def _left_as(attribution: Attribution, word: str) -> list[str]:
    """Return the changes that are not promoted: with `WORSE` those that did harm, with `TIE` all others."""
    table = attribution_table(attribution)
    did_harm = table["word"] == WORSE
    asked_for = did_harm if word == WORSE else ~did_harm
    return list(table.loc[table["left"] & asked_for, "path"])


def _stay(names: Sequence[str]) -> str:
    return "it stays at its default" if len(names) == 1 else "they stay at their defaults"


def listed(names: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    shown = [plain(name) for name in names]
    if len(shown) > 1:
        shown = [", ".join(shown[:-1]), shown[-1]]
    return " and ".join(shown)


def shares_of_gain(record: StudyRecord) -> Mapping[str, str]:
    """Return in words what share of the gain each change that counts gave when it was added, by dotted path.

    Args:
        record: The study.
    """
    attribution = attribution_of(record)
    gain = attribution.baseline_loss - attribution.winner_loss if attribution else 0.0
    if attribution is None or gain <= 0:
        return {}

    said = {}
    for change in attribution.changes:
        if change.is_tie or change.gain is None:
            continue
        share = change.gain[0] / gain
        if share > 0:
            said[change.path] = f"{percent(share, 0)} of the gain"

    return said


def left_line(record: StudyRecord) -> str:
    """Return one line on what is left at default and why, or "".

    Args:
        record: The study.
    """
    attribution = attribution_of(record)
    if attribution is None:
        return ""

    metric = record.attributes.metric
    reasons = {
        TIE: "no difference could be measured",
        WORSE: f"the {plain(metric.name)} was {metric.worse} with the change",
    }
    lines = []
    for word, why in reasons.items():
        left = _left_as(attribution, word)
        if left:
            lines.append(f"Left at default, since {why}: {listed(left)}.")

    return " ".join(lines)
