"""What the trials that matter are called: default, winner, promoted, lowest (or highest) single run."""

from __future__ import annotations

from autotune.core.metric import Metric
from autotune.finals.verdict import ranked
from autotune.promotion.selection import best_settings
from autotune.store.study_record import StudyRecord

DEFAULT, WINNER, PROMOTED = "default", "winner", "promoted"
_SINGLE_RUN = "single run"


def single_run(metric: Metric) -> str:
    """Return what the best trial of the search is called, which may owe its place to luck: "lowest single run"."""
    return f"{metric.best} {_SINGLE_RUN}"


def is_single_run(name: str) -> bool:
    """Return whether that is a name of the best trial of the search."""
    return name.endswith(_SINGLE_RUN)


def named_trials(record: StudyRecord) -> dict[int, str]:
    """Return what the search trials that matter are called, by number: "winner, promoted".

    Args:
        record: The study.
    """
    best = best_settings(record)
    best_run = next(iter(ranked(record.trials)), None)
    places = {
        DEFAULT: record.baseline.number if record.baseline else None,
        WINNER: record.verdict.winner if record.verdict else None,
        PROMOTED: best.trial.number if best and best.is_decided else None,
        single_run(record.attributes.metric): best_run.number if best_run else None,
    }

    named: dict[int, list[str]] = {}
    for word, number in places.items():
        if number is not None:
            named.setdefault(number, []).append(word)

    return {number: ", ".join(words) for number, words in named.items()}
