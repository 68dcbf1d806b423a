"""How a study stands, in a word or two: the one answer that `autotune status`, `watch` and Python give."""

from __future__ import annotations

from typing import Literal

from autotune.core.records import TrialStatus, VerdictWord
from autotune.promotion.next_step import is_at_work
from autotune.store.study_record import StudyRecord

State = Literal["not begun", "running", "parked", "failed", "full run failed", "done"]
"""How a study stands: "failed" if no trial finished, "full run failed" if the last full run did."""

_FAILURES = [str(status) for status in TrialStatus if status.is_failure]


def state_of(record: StudyRecord) -> State:
    """Return how a study stands.

    Args:
        record: The study.
    """
    if is_at_work(record):
        return "running"
    if record.verdict is None:
        return "parked" if record.has_trained else "not begun"
    if record.verdict.word is VerdictWord.FAILED:
        return "failed"

    full = record.attributes.full_run
    if full is None:
        return "done"
    if full.status in _FAILURES:
        return "full run failed"
    return "done" if full.status == TrialStatus.FINISHED else "parked"
