"""The Plotly figure of what each of the winner's changes gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from autotune.core.metric import TEXT_LOSS, Metric
from reports.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, base_figure
from reports.formats import label, plain, setting
from reports.tables.attribution import COUNTS, TIE, WORSE, interval_words

# Name, colour and pattern of a change's bar by its word.
_GAIN_STYLE = {
    COUNTS: ("gained when added in this order", BLUE, ""),
    TIE: ("tie: no difference measured", GREY, "/"),
    WORSE: ("made it worse", VERMILLION, "x"),
}
# Colour of the mark of what is lost without a change, by its word.
_HARM_COLOURS = {COUNTS: ORANGE, TIE: GREY, WORSE: GREY}
# A change has one row: its bar lies above the middle of it, its mark below.
_BAR_SHIFT = -0.15
_MARK_SHIFT = 0.2


def which_change(rows: pd.DataFrame, gain: float, metric: Metric = TEXT_LOSS) -> go.Figure:
    """Draw what each change brought when added in this order, and what the winner loses without it.

    Args:
        rows: As `reports.tables.attribution.attribution_table` gives it.
        gain: Of the winner with all its changes, nats per token.
        metric: What trials report.
    """
    unit = metric.unit or f"in {metric.name}"
    figure = base_figure(f"worth ({label(unit)})", "", height=170 + 56 * (len(rows) + 1))

    for word, (name, colour, pattern) in _GAIN_STYLE.items():
        _add_gain_bars(figure, rows[rows["word"] == word], (name, colour, pattern), metric)
    for word, colour in _HARM_COLOURS.items():
        _add_harm_marks(figure, rows[rows["word"] == word], colour, metric)
    _add_marks_of_missing(figure, rows, gain)

    figure.add_bar(
        x=[gain], y=[len(rows)], orientation="h", width=0.4, marker={"color": GREEN}, showlegend=False,
        name="all changes together", hovertemplate=f"all changes together: {metric.signed(gain)}<extra></extra>",
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": GREY, "width": 1})

    names = [*map(_change_label, rows.to_dict("records")), "<b>all changes</b>"]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5])
    figure.update_xaxes(range=_range_of_worth(rows, gain))
    figure.update_layout(barmode="overlay")
    return figure


def _range_of_worth(rows: pd.DataFrame, gain: float) -> list[float]:
    """Return what is shown: all values, and their intervals as far as those do not squeeze them."""
    values = [0.0, gain, *rows["gain"].dropna(), *rows["harm"].dropna()]
    ends = [end for name in ("gain_low", "gain_high", "harm_low", "harm_high") for end in rows[name].dropna()]
    low, high = min(values), max(values)
    room = high - low or 1e-9

    lowest = max(min([low, *ends]), low - room)
    highest = min(max([high, *ends]), high + room)
    margin = 0.05 * (highest - lowest)
    return [lowest - margin, highest + margin]


def _change_label(row: Mapping[Any, Any]) -> str:
    path = label(plain(row["path"], 32))
    before = label(plain(setting(row["before"]), 16))
    after = label(plain(setting(row["after"]), 16))

    mark = ""
    if row["word"] != COUNTS:
        mark = f" ({row['word']})"

    return f"{path}<br>{before} → {after}{mark}"


def _add_gain_bars(figure: go.Figure, rows: pd.DataFrame, style: tuple[str, str, str], metric: Metric) -> None:
    known = rows[rows["gain"].notna()]
    if not len(known):
        return

    name, colour, pattern = style
    half_widths = (known["gain_high"] - known["gain"]).to_numpy()
    hatching = {"shape": pattern, "solidity": 0.3, "fillmode": "overlay"}

    figure.add_bar(
        x=known["gain"].to_numpy(), y=known.index.to_numpy() + _BAR_SHIFT, orientation="h", width=0.3, name=name,
        error_x={"type": "data", "array": half_widths, "color": colour},
        marker={"color": colour, "opacity": 0.55, "pattern": hatching},
        text=interval_words(known, "gain", metric), hovertemplate="gave %{text}<extra></extra>", textposition="none",
    )  # fmt: skip


def _add_harm_marks(figure: go.Figure, rows: pd.DataFrame, colour: str, metric: Metric) -> None:
    known = rows[rows["harm"].notna()]
    if not len(known):
        return

    half_widths = (known["harm_high"] - known["harm"]).to_numpy()

    figure.add_scatter(
        x=known["harm"].to_numpy(), y=known.index.to_numpy() + _MARK_SHIFT, mode="markers", name="lost without it",
        error_x={"type": "data", "array": half_widths, "color": colour},
        marker={"color": colour, "symbol": "diamond", "size": 10}, showlegend=colour == ORANGE,
        text=interval_words(known, "harm", metric), hovertemplate="lost without it: %{text}<extra></extra>",
    )  # fmt: skip


def _add_marks_of_missing(figure: go.Figure, rows: pd.DataFrame, gain: float) -> None:
    """Mark at the edge what the winner does not train without, and at zero what was not measured when it was added."""
    edge = max([gain, *rows["gain_high"].dropna(), *rows["harm_high"].dropna()])

    without_harm = rows.index[rows["harm"].isna()].to_numpy()
    if len(without_harm):
        places = without_harm + _MARK_SHIFT
        _add_named_marks(figure, edge, places, "cannot be trained", "left", {"color": VERMILLION, "symbol": "x"})

    without_gain = rows.index[rows["gain"].isna()].to_numpy()
    if len(without_gain):
        places = without_gain + _BAR_SHIFT
        _add_named_marks(figure, 0.0, places, "not measured", "right", {"color": PURPLE, "symbol": "square-x-open"})


def _add_named_marks(
    figure: go.Figure, x: float, places: np.ndarray, name: str, side: str, marker: Mapping[str, str]
) -> None:
    figure.add_scatter(
        x=[x] * len(places), y=places, mode="markers+text", name=name, cliponaxis=False,
        text=[name] * len(places), textposition=f"middle {side}", showlegend=False, hoverinfo="skip",
        marker={**marker, "size": 12},
    )  # fmt: skip
