"""Plotly figures of the settings: each against the metric, in pairs, their importance, and the best trials' lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from autotune.core.metric import TEXT_LOSS, Metric
from autotune.search.dimension import Dimension
from reports.figures.scale import Scale, digits, drawn
from reports.figures.style import BLUE, GREEN, GREY, VERMILLION, base_figure
from reports.formats import label, setting


@dataclass(frozen=True)
class SearchedSetting:
    """A setting that was searched.

    Args:
        path: Dotted config path.
        dimension: Its range or choices.
        best: The best settings' value; None where they do not have it.
        edge: "low" or "high" when that value lies at an edge of the range, else "".
    """

    path: str
    dimension: Dimension
    best: Any = None
    edge: str = ""


def setting_against_loss(
    searched: SearchedSetting, values: pd.Series[Any], trials: pd.DataFrame, metric: Metric = TEXT_LOSS
) -> go.Figure:
    """Draw one setting against what the finished trials came to.

    Args:
        searched: The setting.
        values: Its values by trial number; None where it was not searched.
        trials: As `reports.tables.trials.trials_table` gives it.
        metric: What trials report.
    """
    dimension = searched.dimension
    done = trials[trials["loss"].notna()]
    done = done[done["number"].map(values).notna()]
    places = []
    texts = []
    for number in done["number"]:
        value = values[number]
        places.append(_place(dimension, value))
        texts.append(f"trial {number}: {label(setting(value))}")

    figure = base_figure(_axis_title(searched), label(metric.name), height=250)
    scale = Scale.of(done["loss"], metric=metric)
    figure.add_scatter(
        x=places, y=scale.place(done["loss"]), customdata=drawn(done["loss"], metric), cliponaxis=False,
        mode="markers", marker={"color": BLUE, "size": 7, "opacity": 0.7}, showlegend=False,
        text=texts, hovertemplate=f"%{{text}}, {label(metric.name)} %{{customdata:{digits(metric)}}}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(range=scale.range)
    figure.update_xaxes(**_ticks(dimension) | _whole_range(dimension))

    if searched.best is not None:
        figure.add_vline(x=_place(dimension, searched.best), line={"color": GREEN, "dash": "dot", "width": 2})
    if searched.edge:
        _add_edge_flag(figure, searched.edge)
    figure.update_layout(margin={"l": 58, "r": 16, "t": 24, "b": 54})
    return figure


def _axis_title(searched: SearchedSetting) -> str:
    if searched.dimension.log:
        return f"{label(searched.path)} (log)"
    return label(searched.path)


def _add_edge_flag(figure: go.Figure, edge: str) -> None:
    x, anchor = (0, "left") if edge == "low" else (1, "right")
    figure.add_annotation(
        text="▲ best is at the edge", xref="paper", yref="paper", x=x, y=1.08,
        xanchor=anchor, showarrow=False, font={"color": VERMILLION},
    )  # fmt: skip


def pair(
    along_x: SearchedSetting,
    along_y: SearchedSetting,
    settings: pd.DataFrame,
    trials: pd.DataFrame,
    metric: Metric = TEXT_LOSS,
) -> go.Figure:
    """Draw two settings against each other, finished trials told apart by their rank.

    Args:
        along_x: The setting along x.
        along_y: The setting along y.
        settings: As `reports.tables.trials.settings_table` gives it.
        trials: As `reports.tables.trials.trials_table` gives it.
        metric: What trials report.
    """
    figure = base_figure(label(along_x.path), label(along_y.path), height=270)
    done = trials[trials["loss"].notna()]
    rank_frac = done["loss"].rank(pct=True)

    groups = [
        ("worst quarter", done[rank_frac > 0.75], VERMILLION, "x"),
        ("in between", done[(rank_frac > 0.25) & (rank_frac <= 0.75)], GREY, "circle-open"),
        ("best quarter", done[rank_frac <= 0.25], GREEN, "diamond"),
    ]
    for name, group, colour, symbol in groups:
        texts = []
        for number, loss in zip(group["number"], group["loss"], strict=True):
            texts.append(f"trial {number}: {label(metric.words(loss))}")
        figure.add_scatter(
            x=_places(along_x, settings, group), y=_places(along_y, settings, group), mode="markers", name=name,
            marker={"color": colour, "symbol": symbol, "size": 9}, text=texts, hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip

    figure.update_xaxes(**_ticks(along_x.dimension))
    figure.update_yaxes(**_ticks(along_y.dimension))

    best_line = {"color": GREEN, "dash": "dot", "width": 1.5}
    if along_x.best is not None:
        figure.add_vline(x=_place(along_x.dimension, along_x.best), line=best_line)
    if along_y.best is not None:
        figure.add_hline(y=_place(along_y.dimension, along_y.best), line=best_line)

    # The card's sentence says what the marks mean: three legends would take a third of each picture.
    figure.update_layout(showlegend=False, margin={"l": 68, "r": 12, "t": 12, "b": 54})
    return figure


def _places(searched: SearchedSetting, settings: pd.DataFrame, trials: pd.DataFrame) -> list[Any]:
    values = settings[searched.path]
    return [_place(searched.dimension, values[number]) for number in trials["number"]]


def _place(dimension: Dimension, value: Any) -> Any:
    """Return where a value stands on its axis: choices, which may be words, stand evenly in their order."""
    if dimension.choices is None:
        return value
    if value not in dimension.choices:
        return None
    return dimension.choices.index(value)


def _ticks(dimension: Dimension) -> dict[str, Any]:
    """Return an axis of a setting: choices in their order, decades, or plain numbers."""
    if dimension.choices is not None:
        words = [label(setting(choice)) for choice in dimension.choices]
        return {"tickvals": list(range(len(words))), "ticktext": words, "range": [-0.5, len(words) - 0.5]}

    if dimension.log:
        ticks = _log_ticks(float(dimension.low or 1), float(dimension.high or 1))
        return {"type": "log", "tickvals": ticks, "ticktext": [setting(tick) for tick in ticks]}

    return {"nticks": 5, "tickformat": "d" if dimension.is_integer else None}


def _log_ticks(low: float, high: float) -> list[float]:
    """Return the values 1 and 3 of each decade between two ends, and the ends where those are fewer than two."""
    first_decade = math.floor(math.log10(low))
    last_decade = math.ceil(math.log10(high))

    ticks = []
    for decade in range(first_decade, last_decade + 1):
        ticks += [1 * 10.0**decade, 3 * 10.0**decade]

    # An end that is itself a tick must not be lost to rounding.
    inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    if len(inside) < 2:
        return [low, high]

    return inside


def _whole_range(dimension: Dimension) -> dict[str, Any]:
    """Return the range that was searched, with a margin.

    Plotly would invent a range where all trials chose the same value.
    """
    if dimension.choices is not None:
        return {}

    low = float(dimension.low or 0)
    high = float(dimension.high or 0)
    if dimension.log:
        low = math.log10(low)
        high = math.log10(high)
    margin = 0.06 * (high - low) or 0.5

    return {"range": [low - margin, high + margin]}


def importance(shares: pd.DataFrame) -> go.Figure:
    """Draw how much each setting tells the best trials from the rest.

    Args:
        shares: As `reports.tables.importance.importance_table` gives it.
    """
    figure = base_figure("share of the importance", "", height=110 + 30 * len(shares))

    figure.add_bar(
        x=shares["importance_frac"].to_numpy(), y=[label(path) for path in shares["path"]], orientation="h",
        marker={"color": BLUE}, text=[f"{100 * share:.0f} %" for share in shares["importance_frac"]],
        textposition="auto", hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    figure.update_layout(margin={"t": 16})
    return figure


def parallel_coordinates(
    table: pd.DataFrame, dimensions: Mapping[str, Dimension], metric: Metric = TEXT_LOSS
) -> go.Figure:
    """Draw the best trials as lines through the ranges of their settings, one row a setting.

    Drawn with ordinary lines, one row below another: readable on a phone and on paper, and without WebGL.

    Args:
        table: As `reports.tables.ranges.parallel_table` gives it, best first.
        dimensions: The space, by dotted path.
        metric: What trials report.
    """
    paths = list(dimensions)
    rows = [-place for place in range(len(paths))]
    figure = base_figure("", "", height=90 + 58 * len(paths))

    # The best trial comes last, so that it is drawn on top.
    for place in reversed(range(len(table))):
        _add_trial_line(figure, table, place, rows, metric)
    for row, path in zip(rows, paths, strict=True):
        _add_setting_row(figure, row, path, dimensions[path])

    figure.update_xaxes(range=[-0.03, 1.03], visible=False)
    figure.update_yaxes(range=[rows[-1] - 0.3, 0.6], visible=False)
    figure.update_layout(margin={"l": 12, "r": 12, "b": 12})
    return figure


def _add_trial_line(figure: go.Figure, table: pd.DataFrame, place: int, rows: list[int], metric: Metric) -> None:
    trial = table.iloc[place]
    paths = [name for name in table.columns if name not in ("number", "loss")]
    best_tenth = max(1, len(table) // 10)
    if place < best_tenth:
        style = {"name": "best tenth", "opacity": 1, "line": {"color": GREEN, "width": 3}}
    else:
        style = {"name": "other trials", "opacity": 0.35, "line": {"color": GREY, "width": 1}}

    text = f"trial {int(trial['number'])}: {label(metric.words(trial['loss']))}"
    figure.add_scatter(
        x=trial[paths].to_numpy(dtype=float), y=rows, mode="lines", connectgaps=False,
        # One entry in the legend for each of the two kinds of line, that of the best first.
        showlegend=place in (0, best_tenth), legendrank=place,
        text=[text] * len(paths), hovertemplate="%{text}<extra></extra>", **style,
    )  # fmt: skip


def _add_setting_row(figure: go.Figure, row: int, path: str, dimension: Dimension) -> None:
    ends: Sequence[Any] = dimension.choices or (dimension.low, dimension.high)
    figure.add_shape(type="line", x0=0, x1=1, y0=row, y1=row, line={"color": GREY, "width": 1}, layer="below")

    labels = [
        (0, "left", label(setting(ends[0]))),
        (0.5, "center", f"<b>{label(path)}</b>"),
        (1, "right", label(setting(ends[-1]))),
    ]
    for x, anchor, text in labels:
        # The page gives every annotation that has a background its own colour, light or dark.
        figure.add_annotation(x=x, y=row, yshift=13, xanchor=anchor, text=text, showarrow=False, bgcolor="white")
