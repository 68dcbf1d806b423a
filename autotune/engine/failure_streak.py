"""Different settings that failed in a row: then it is the trainer or the machine that fails."""

from __future__ import annotations

from pathlib import Path

from autotune.core.errors import UserError
from autotune.core.records import TrainingKind, TrialResult, TrialStatus


class FailureStreak:
    """Gives the study up when different settings fail in a row; one bad setting may fail as often as it is tried.

    Args:
        limit: Settings that may not fail in a row.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failed: set[tuple[TrainingKind, int]] = set()

    def count(self, kind: TrainingKind, first_attempt: int, result: TrialResult, log: Path) -> None:
        """Take an ended training into account.

        Args:
            kind: What it was for.
            first_attempt: Number of the first attempt at its settings.
            result: How it ended.
            log: What the trainer printed.

        Raises:
            UserError: When too many have failed.
        """
        if result.status is not TrialStatus.CRASHED and not result.worker_died:
            self._failed.clear()
            return

        self._failed.add((kind, first_attempt))
        if len(self._failed) >= self._limit:
            raise UserError(
                f"{len(self._failed)} different settings in a row failed; the last: {result.cause}; see {log}", 1
            )
