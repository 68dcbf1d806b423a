"""Which change gave what, in rows and words, and the settings that are left when ties are back at their default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from autotune.core.records import VerdictWord
from autotune.core.study_results import AttributedChange, Attribution
from autotune.store.study_store import StudyRecord
from reports import tables
from reports.formats import count, number, percent, plain, setting, signed

COUNTS, TIE, WORSE = "counts", "tie", "worse"
TITLE = "Which change gave what"


def found_in(record: StudyRecord) -> Attribution | None:
    """Returns what each change of the proven winner gave, or None if that is not known.

    Args:
        record: The study.
    """
    found, verdict = record.attributes.attribution, record.verdict
    if found is None or verdict is None or verdict.word is not VerdictWord.BETTER or found.winner != verdict.winner:
        return None
    return found


def is_missing(record: StudyRecord) -> bool:
    """Returns whether it is still to be found out which change gave what.

    Args:
        record: The study.
    """
    better = record.verdict is not None and record.verdict.word is VerdictWord.BETTER
    wanted = record.spec.finals.attribute_seeds > 0 and not any(event.get("kind") == "best" for event in record.events)
    return better and wanted and found_in(record) is None


def why_none(record: StudyRecord) -> str:
    """Returns why it is not known which change gave what.

    Args:
        record: A study for which `found_in` gives None.
    """
    verdict, kinds = record.verdict, {event.get("kind") for event in record.events}
    if verdict is None:
        return "that is found out after the finals"
    if verdict.word is not VerdictWord.BETTER:
        return "no settings were proved better than the default, so there is no gain to explain"
    if not record.spec.finals.attribute_seeds:
        return "the study file asks for none of it (finals.attribute_seeds = 0)"
    if "attribution" in kinds:
        return "no time was left for it, so all changes are kept"
    if "best" in kinds:
        return "not all of its trainings came to an end, so all changes are kept"
    return "its trainings are not done yet"


def rows(found: Attribution) -> pd.DataFrame:
    """Returns the winner's changes, a row each, in the order of the path from the default.

    Args:
        found: As `found_in` gives it.

    Returns:
        Columns path, before, after, gain and harm with their ends (gain_low, ...; nats per token, NaN where a
        training failed), word ("counts", "tie" or "worse") and left (whether it is back at its default).
    """
    names = ["gain", "gain_low", "gain_high", "harm", "harm_low", "harm_high"]
    missing = (None, None, None)
    made = [
        (change.path, change.before, change.after, *(change.gain or missing), *(change.harm or missing),
         _word(change), change.path in _left(found))
        for change in found.changes
    ]  # fmt: skip
    table = pd.DataFrame(made, columns=["path", "before", "after", *names, "word", "left"])
    return table.astype(dict.fromkeys(names, float) | dict.fromkeys(("before", "after"), object))


def _word(change: AttributedChange) -> str:
    if not change.is_tie:
        return COUNTS
    return WORSE if any(part is not None and part[2] < 0 for part in (change.gain, change.harm)) else TIE


def _left(found: Attribution) -> list[str]:
    """The changes that are not promoted: ties, and what has no effect once they are back at their default."""
    return [change.path for change in found.changes if found.params.get(change.path, change.before) != change.after]


def words(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows as a person would write them.

    Args:
        table: As `rows` gives it.

    Returns:
        Columns setting, default, winner, gain on the path, rise in loss without it, and what follows.
    """
    follows = {True: "left at default", False: "kept"}
    content = {
        "setting": table["path"],
        "default": table["before"].map(setting),
        "winner": table["after"].map(setting),
        "gain on the path": interval_words(table, "gain", "not measured"),
        "rise in loss without it": interval_words(table, "harm", "does not train without it"),
        "what follows": [f"{word}: {follows[left]}" for word, left in zip(table["word"], table["left"], strict=True)],
    }
    return pd.DataFrame(content)


def interval_words(table: pd.DataFrame, name: str, missing: str = "") -> list[str]:
    """Returns "gain" or "harm" of each row with its interval, or what is said where it is missing."""
    columns = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
    return [
        missing if value != value else f"{signed(value)} ({signed(low)} to {signed(high)})"
        for value, low, high in columns
    ]


def sentences(found: Attribution) -> list[str]:
    """Returns in plain words what each change gave and what became of the ties.

    Args:
        found: As `found_in` gives it.
    """
    table, gain = rows(found), signed(found.baseline_loss - found.winner_loss)
    if len(table) == 1:
        return [f"{plain(table['path'][0])} is the only change, so the whole gain of {gain} in loss is its own."]
    kept = table[~table["left"]]
    seeds = count(len(found.seeds), "fresh seed")
    lines = _given(kept[kept["word"] == COUNTS], gain, seeds)
    ties, worse = _left_as(found, TIE), _left_as(found, WORSE)
    if ties:
        lines.append(f"No difference could be measured for {listed(ties)}, so {_stay(ties)}.")
    if worse:
        lines.append(f"The loss was higher with {listed(worse)}, so {_stay(worse)}.")
    if together := list(kept.loc[kept["word"] != COUNTS, "path"]):
        lines.append(f"No gain could be measured for {listed(together)} alone, but together they count and are kept.")
    if needed := list(table.loc[table["harm"].isna(), "path"]):
        lines.append(f"Without {listed(needed)} the winner does not train.")
    return lines


def _given(counting: pd.DataFrame, gain: str, seeds: str) -> list[str]:
    """What the changes that count gave, largest first; of some that is not known."""
    known = counting[counting["gain"].notna()].sort_values("gain", ascending=False, kind="stable")
    amounts = [(plain(path), signed(value)) for path, value in zip(known["path"], known["gain"], strict=True)]
    lines = []
    if amounts:
        others = listed([f"{path} {amount}" for path, amount in amounts[1:]])
        first = f"{amounts[0][0]} gave {amounts[0][1]} of the {gain} gained in loss on {seeds}"
        lines.append(f"{first}, {others}." if others else f"{first}.")
    if unknown := list(counting.loc[counting["gain"].isna(), "path"]):
        lines.append(f"What {listed(unknown)} gave is not known, since a training on the way failed.")
    return lines


def _left_as(found: Attribution, word: str) -> list[str]:
    """The changes that are not promoted, those that did harm apart from those that did nothing."""
    table = rows(found)
    return list(table.loc[table["left"] & ((table["word"] == WORSE) == (word == WORSE)), "path"])


def _stay(names: Sequence[str]) -> str:
    return "it stays at its default" if len(names) == 1 else "these stay at their default"


def listed(names: Sequence[str]) -> str:
    """Returns "a", "a and b" or "a, b and c"."""
    shown = [plain(name) for name in names]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def reading(found: Attribution) -> str:
    """Returns how its figure is to be read, for someone who has never seen one like it."""
    return (
        "A bar is what a change brought when the changes were made one after the other, from the default (top) to the "
        "winner; a diamond is how much the loss rises when that change alone is taken back. Thin lines are 95 % "
        "intervals: where both reach zero, the change may do nothing."
    )


def best_settings(record: StudyRecord) -> Mapping[str, Any] | None:
    """Returns the best known settings: of a winner whose changes were told apart, those that are promoted.

    Args:
        record: The study.
    """
    found = found_in(record)
    if found is not None:
        return found.params
    if record.verdict is not None and record.verdict.params:
        return record.verdict.params
    best = tables.best_trial(record)
    return best.params if best else None


def left_at_default(record: StudyRecord) -> Mapping[str, Any]:
    """Returns the winner's changes that are not promoted, with their default by dotted path.

    Args:
        record: The study.
    """
    found = found_in(record)
    return {change.path: change.before for change in found.changes if change.path in _left(found)} if found else {}


def shares(record: StudyRecord) -> Mapping[str, str]:
    """Returns in words what share of the gain each change that counts gave on the path, by dotted path.

    Args:
        record: The study.
    """
    found = found_in(record)
    gain = found.baseline_loss - found.winner_loss if found else 0.0
    if found is None or gain <= 0:
        return {}
    gave = {change.path: change.gain[0] / gain for change in found.changes if change.gain and not change.is_tie}
    return {path: f"{percent(share, 0)} of the gain" for path, share in gave.items() if share > 0}


def left_line(record: StudyRecord) -> str:
    """Returns one line on what is left at default and why, or "".

    Args:
        record: The study.
    """
    found = found_in(record)
    if found is None:
        return ""
    reasons = {TIE: "no difference could be measured", WORSE: "the loss was higher with the change"}
    groups = [(why, listed(left)) for word, why in reasons.items() if (left := _left_as(found, word))]
    return " ".join(f"Left at default, since {why}: {names}." for why, names in groups)


def proof_line(record: StudyRecord) -> str:
    """Returns one line on how what is promoted did beside the whole winner, or "" where they are the same.

    Args:
        record: The study.
    """
    found, left = found_in(record), left_at_default(record)
    if found is None or not left:
        return ""
    return (
        f"These numbers are those of the winner with all its changes. What is promoted leaves {len(left)} of them "
        f"at default: its loss on {count(len(found.seeds), 'fresh seed')} was {number(found.loss)}, the winner's "
        f"{number(found.winner_loss)} and the default's {number(found.baseline_loss)}."
    )
