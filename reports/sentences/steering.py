"""What a person changed as the study ran, and what that means for the verdict."""

from __future__ import annotations

from autotune.core.requests import AddTrial, Request, StopTrial
from autotune.store.study_record import StudyRecord
from reports.formats import count, plain


def steering_lines(record: StudyRecord) -> list[str]:
    """Return all that a person asked of the study, a sentence each, oldest first.

    Args:
        record: The study.
    """
    return [plain(request.sentence(record.created_at)) for request in record.attributes.requests]


def steering_doubts(record: StudyRecord) -> list[str]:
    """Return what steering by hand means for the verdict, to be said beside it; nothing if nobody steered.

    Args:
        record: The study.
    """
    done = [request for request in record.attributes.requests if request.is_done]
    if not done:
        return []

    lines = []
    winner = record.verdict.winner if record.verdict else None
    by_hand = {request.answer.trial for request in done if request.answer and isinstance(request.wish, AddTrial)}
    if winner is not None and winner in by_hand:
        lines.append(
            f"The winner, trial {winner}, is one that you added by hand. It was judged on fresh seeds like any other."
        )

    stopped = sum(isinstance(request.wish, StopTrial) for request in done)
    if stopped:
        trials = count(stopped, "trial")
        lines.append(
            f"You stopped {trials} by hand, which could not win: how good they would have become is not known."
        )
    if any(_moves_search(request) for request in done):
        lines.append(
            "You changed what was searched while it was: the verdict compares the winner with the default, and says "
            "nothing about settings that were not tried."
        )
    return lines


def _moves_search(request: Request) -> bool:
    return request.wish.kind in ("range", "trials")
