"""What failed in the night, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.core.records import TrialRecord, TrialStatus
from autotune.store.study_record import StudyRecord
from reports.formats import plain

# Causes listed for each kind of failure; the rest is in trials.csv.
_MAX_CAUSES = 5

# What each kind of failure means, and what to do about it.
_MEANINGS = {
    TrialStatus.DIVERGED: (
        "The training ran away instead of improving: its steps were too big.",
        "Normal at the upper end of a learning rate's range. If there are many, lower that end.",
    ),
    TrialStatus.OUT_OF_MEMORY: (
        "The settings needed more memory than there is.",
        "Lower the upper ends of model size and micro-batch in the study file.",
    ),
    TrialStatus.CRASHED: (
        "The training program stopped with an error, through no fault of the settings.",
        "Read the log named here, and run: autotune doctor.",
    ),
    TrialStatus.INTERRUPTED: (
        "The run was stopped in the middle; the settings were queued again.",
        "Nothing to do.",
    ),
}


@dataclass(frozen=True)
class Failure:
    """One kind of failure.

    Args:
        status: As in `TrialStatus`.
        trials: How many.
        meaning: What it means in plain words.
        action: What to do.
        causes: Up to five lines "trial 7: cause (log ...)".
    """

    status: str
    trials: int
    meaning: str
    action: str
    causes: tuple[str, ...]


def failures(record: StudyRecord) -> list[Failure]:
    """Return the kinds of failure that occurred in the search and the finals.

    Args:
        record: The study.

    Returns:
        [] when nothing failed.
    """
    causes: dict[TrialStatus, list[str]] = {}
    for kind, runs in (("trial", record.trials), ("final run", record.finals)):
        for run in runs:
            causes.setdefault(run.status, []).append(_cause(f"{kind} {run.number}", run))

    kinds = []
    for status, (meaning, action) in _MEANINGS.items():
        failed = causes.get(status, [])
        if failed:
            kinds.append(Failure(status.value, len(failed), meaning, action, tuple(failed[:_MAX_CAUSES])))

    return kinds


def _cause(name: str, trial: TrialRecord) -> str:
    result = trial.result
    if result is None:
        return f"{name}: no cause stored"

    line = f"{name}: {plain(result.cause) or 'no cause stored'}"
    if result.log:
        line += f" (log: {plain(result.log)})"

    return line
