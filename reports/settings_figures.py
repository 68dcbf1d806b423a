"""Plotly figures of the settings: each against the loss, their importance, and the best trials' choices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from autotune.space import Dimension
from reports.figures import BLUE, GREEN, GREY, VERMILLION, base_figure
from reports.formats import label, setting


def setting_against_loss(
    path: str, dimension: Dimension, settings: pd.Series[Any], trials: pd.DataFrame, best: Any, side: str
) -> go.Figure:
    """Draws one setting against the final loss of the finished trials.

    Args:
        path: Dotted config path.
        dimension: Its range or choices.
        settings: Values by trial number; None where it was not searched.
        trials: As `reports.tables.trials_table` gives it.
        best: The best settings' value, or None.
        side: "low" or "high" when that value lies at an edge, else "".
    """
    done = trials[trials["loss"].notna()]
    done = done[done["number"].map(settings).notna()]
    values = [settings[number] for number in done["number"]]
    figure = base_figure(label(path) + (" (log scale)" if dimension.log else ""), "loss", height=250)
    figure.add_scatter(
        x=[_place(dimension, value) for value in values], y=done["loss"].to_numpy(),
        mode="markers", marker={"color": BLUE, "size": 7, "opacity": 0.7}, showlegend=False,
        text=[f"trial {number}: {label(setting(value))}" for number, value in zip(done["number"], values, strict=True)],
        hovertemplate="%{text}, loss %{y:.4f}<extra></extra>",
    )  # fmt: skip
    if dimension.choices is not None:
        words = [label(setting(choice)) for choice in dimension.choices]
        places = list(range(len(words)))
        figure.update_xaxes(tickvals=places, ticktext=words, range=[-0.5, len(words) - 0.5])
    elif dimension.log:
        ticks = log_ticks(float(dimension.low or 1), float(dimension.high or 1))
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[setting(tick) for tick in ticks])
    else:
        figure.update_xaxes(nticks=5, tickformat="d" if dimension.is_integer else None)
    if best is not None:
        figure.add_vline(x=_place(dimension, best), line={"color": GREEN, "dash": "dot", "width": 2})
    if side:
        figure.add_annotation(
            text="▲ best is at the edge", xref="paper", yref="paper", x=0 if side == "low" else 1, y=1.08,
            xanchor="left" if side == "low" else "right", showarrow=False, font={"color": VERMILLION},
        )  # fmt: skip
    figure.update_layout(margin={"l": 52, "r": 12, "t": 24, "b": 48})
    return figure


def _place(dimension: Dimension, value: Any) -> Any:
    """Where a value stands on its axis: choices, which may be words, stand evenly in their order."""
    if dimension.choices is None:
        return value
    return dimension.choices.index(value) if value in dimension.choices else None


def log_ticks(low: float, high: float) -> list[float]:
    """Returns the values 1 and 3 of each decade between two ends, and the ends where those are fewer than two.

    Args:
        low: Lower end, > 0.
        high: Upper end, >= low.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 3)]
    kept = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    return kept if len(kept) > 1 else [low, high]


def importance(shares: pd.DataFrame) -> go.Figure:
    """Draws how much each setting tells the best trials from the rest.

    Args:
        shares: As `reports.audits.importance` gives it.
    """
    figure = base_figure("share of the importance", "", height=110 + 30 * len(shares))
    figure.add_bar(
        x=shares["importance_frac"].to_numpy(), y=[label(path) for path in shares["path"]], orientation="h",
        marker={"color": BLUE}, text=[f"{100 * share:.0f} %" for share in shares["importance_frac"]],
        textposition="auto", hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    return figure


def parallel_coordinates(table: pd.DataFrame, dimensions: Mapping[str, Dimension]) -> go.Figure:
    """Draws the best trials as lines through the ranges of their settings, one row a setting.

    Drawn with ordinary lines, one row below another: readable on a phone and on paper, and without WebGL.

    Args:
        table: As `reports.audits.parallel_table` gives it, best first.
        dimensions: The space, by dotted path.
    """
    paths = list(dimensions)
    figure = base_figure("", "", height=90 + 58 * len(paths))
    rows = [-place for place in range(len(paths))]
    thick = max(1, len(table) // 10)
    for place in reversed(range(len(table))):
        line = table.iloc[place]
        figure.add_scatter(
            x=line[paths].to_numpy(dtype=float), y=rows, mode="lines", showlegend=place in (0, thick),
            connectgaps=False, opacity=1 if place < thick else 0.35, legendrank=place,
            name="best tenth" if place < thick else "other trials",
            line={"color": GREEN if place < thick else GREY, "width": 3 if place < thick else 1},
            text=[f"trial {int(line['number'])}: loss {line['loss']:.4f}"] * len(paths),
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    for row, path in zip(rows, paths, strict=True):
        _parallel_row(figure, row, path, dimensions[path])
    figure.update_xaxes(range=[-0.03, 1.03], visible=False)
    figure.update_yaxes(range=[rows[-1] - 0.3, 0.6], visible=False)
    figure.update_layout(margin={"l": 12, "r": 12, "b": 12})
    return figure


def _parallel_row(figure: go.Figure, row: int, path: str, dimension: Dimension) -> None:
    ends: Sequence[Any] = dimension.choices or (dimension.low, dimension.high)
    figure.add_shape(type="line", x0=0, x1=1, y0=row, y1=row, line={"color": GREY, "width": 1}, layer="below")
    for x, anchor, text in ((0, "left", setting(ends[0])), (0.5, "center", path), (1, "right", setting(ends[-1]))):
        shown = f"<b>{label(text)}</b>" if x == 0.5 else label(text)
        # The page gives every annotation that has a background its own colour, light or dark.
        figure.add_annotation(x=x, y=row, yshift=13, xanchor=anchor, text=shown, showarrow=False, bgcolor="white")
