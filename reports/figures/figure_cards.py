"""The card that shows figures on a page: title, one sentence, figures and their table; a card that fails says why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from reports.formats import plain, setting
from reports.tables.importance import TooFewTrialsError

# Rows of a figure's table in the page; trials.csv and curves.csv have all of them.
_MAX_ROWS = 100


@dataclass(frozen=True)
class Card:
    """One figure card.

    Args:
        key: Its id in the page.
        title: A few words.
        sentence: What the figure shows, for someone who has never seen one like it.
        plots: Figures drawn in it, in order.
        columns: Headings of its table.
        rows: Cells of its table, as text.
        cut: Rows that were left out of the table.
        problem: Why there is no figure, or "".
        broken: Whether that is a fault of the report rather than a lack of data.
    """

    key: str
    title: str
    sentence: str
    plots: Sequence[go.Figure] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=tuple)
    cut: int = 0
    problem: str = ""
    broken: bool = False


# What a card shows: its sentence, its figures and their table.
Drawn = tuple[str, Sequence[go.Figure], pd.DataFrame]


class NothingToDrawError(Exception):
    """There is no data for a figure; the message is for the reader."""


def require(condition: bool, reason: str) -> None:
    """Refuse to draw a figure that lacks data.

    Args:
        condition: Whether there is enough.
        reason: What is missing, for the reader, without a full stop.

    Raises:
        NothingToDrawError: If the condition does not hold.
    """
    if not condition:
        raise NothingToDrawError(reason)


def draw_card(key: str, title: str, draw: Callable[[], Drawn]) -> Card:
    """Return one card; whatever goes wrong becomes a sentence in it.

    Args:
        key: Its id.
        title: Its title.
        draw: Returns sentence, figures and table.
    """
    try:
        sentence, plots, table = draw()
        columns = [str(name) for name in table.columns]
        rows = cells(table.head(_MAX_ROWS))
        cut = max(0, len(table) - _MAX_ROWS)

        return Card(key, title, sentence, plots, columns, rows, cut)
    except (NothingToDrawError, TooFewTrialsError) as reason:
        return Card(key, title, "", problem=f"Not drawn: {reason}.")
    except Exception as error:  # noqa: BLE001 - one figure must not cost the reader the page
        reason_text = plain(error) or type(error).__name__
        return Card(key, title, "", problem=f"Could not draw: {reason_text}", broken=True)


def cells(table: pd.DataFrame) -> list[list[str]]:
    """Return a table's cells as text, "–" for what is missing.

    Args:
        table: Numbers, words, times and truth values.
    """
    rows = []
    for row in table.itertuples(index=False, name=None):
        rows.append([_cell(value) for value in row])
    return rows


def _cell(value: Any) -> str:
    is_nan = isinstance(value, float) and value != value
    if value is None or value is pd.NaT or is_nan:
        return "–"

    if isinstance(value, float):
        return _float_cell(value)
    if hasattr(value, "strftime"):
        return str(value.strftime("%Y-%m-%d %H:%M"))
    if isinstance(value, bool):
        return setting(value)

    return plain(value)


def _float_cell(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value and abs(value) < 0.1:
        # Places after the point would leave nothing of a small learning rate.
        return f"{value:.4g}"
    return f"{value:.4f}".rstrip("0").rstrip(".")
