"""What the trials of a simulated search measure: the protocol, and the exact rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from autotune.replay.table import Row, Table


class Source(Protocol):
    """What trials measure.

    Attributes:
        best: Lowest final loss of the table's rows, as this source has them, nats per token.
    """

    best: float

    def take(self, params: Mapping[str, Any]) -> Row | None:
        """Return what is trained instead of a proposal, or None when nothing is left.

        Args:
            params: The proposed settings by dotted path.
        """


class Positions:
    """Settings as points of the unit cube, each on its own scale.

    Args:
        table: Whose space and base values are used.
    """

    def __init__(self, table: Table) -> None:
        self._space = table.spec.space
        self._base = self._space.defaults(table.spec.base)

    def of(self, params: Mapping[str, Any]) -> np.ndarray:
        """Return the point of some settings.

        Args:
            params: Settings by dotted path; those that are missing are at their base value.
        """
        values = {**self._base, **params}
        return np.array([self._space[path].position(values[path]) for path in self._space])


class Rows:
    """Exact rows: a proposal becomes its nearest row that was not yet taken.

    Args:
        table: The table.

    Attributes:
        best: Lowest final loss of the rows that finished, nats per token.
    """

    def __init__(self, table: Table) -> None:
        self._positions = Positions(table)
        self._left = dict(enumerate(table.rows))
        self._points = np.array([self._positions.of(row.params) for row in table.rows])
        self.best = table.finished()[0].losses[-1]

    @property
    def left(self) -> list[Row]:
        """The rows that were not yet taken, in the table's order."""
        return list(self._left.values())

    def take(self, params: Mapping[str, Any]) -> Row | None:
        """Return the nearest row left and take it out, or return None when all are taken.

        Args:
            params: The proposed settings by dotted path.
        """
        if not self._left:
            return None
        left = list(self._left)
        distances = np.linalg.norm(self._points[left] - self._positions.of(params), axis=1)
        nearest = left[int(distances.argmin())]
        return self._left.pop(nearest)
