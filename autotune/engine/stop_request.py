"""How urgently the user wants a run to end."""

from __future__ import annotations


class StopRequest:
    """How urgently the user wants the run to end: 0 not at all, 1 after the next evaluation, 2 now."""

    def __init__(self) -> None:
        self.level = 0

    def raise_level(self, *_: object) -> None:
        """Count one more request; fits a signal handler."""
        self.level = min(2, self.level + 1)
