"""What the trials that matter are called: default, winner, promoted, lowest single run."""

from __future__ import annotations

from autotune.finals.verdict import ranked
from autotune.promotion.selection import best_settings
from autotune.store.study_store import StudyRecord

DEFAULT, WINNER, PROMOTED, LOWEST = "default", "winner", "promoted", "lowest single run"


def named_trials(record: StudyRecord) -> dict[int, str]:
    """Return what the search trials that matter are called, by number: "winner, promoted".

    Args:
        record: The study.
    """
    best = best_settings(record)
    lowest = next(iter(ranked(record.trials)), None)
    places = {
        DEFAULT: record.baseline.number if record.baseline else None,
        WINNER: record.verdict.winner if record.verdict else None,
        PROMOTED: best.trial.number if best and best.is_decided else None,
        LOWEST: lowest.number if lowest else None,
    }

    named: dict[int, list[str]] = {}
    for word, number in places.items():
        if number is not None:
            named.setdefault(number, []).append(word)

    return {number: ", ".join(words) for number, words in named.items()}
