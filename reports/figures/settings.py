"""Plotly figures of the settings: each against the loss, their importance, and the best trials' choices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from autotune.search.dimension import Dimension
from reports.attribution import COUNTS, TIE, WORSE, interval_words
from reports.figures.losses import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, base_figure
from reports.formats import label, plain, setting

GAIN_STYLE = {
    COUNTS: ("given on the path", BLUE, ""),
    TIE: ("tie: no difference measured", GREY, "/"),
    WORSE: ("made it worse", VERMILLION, "x"),
}


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
    figure = base_figure(_title(path, dimension), "loss", height=250)
    figure.add_scatter(
        x=[_place(dimension, value) for value in values], y=done["loss"].to_numpy(),
        mode="markers", marker={"color": BLUE, "size": 7, "opacity": 0.7}, showlegend=False,
        text=[f"trial {number}: {label(setting(value))}" for number, value in zip(done["number"], values, strict=True)],
        hovertemplate="%{text}, loss %{y:.4f}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(**_ticks(dimension) | _whole_range(dimension))
    if best is not None:
        figure.add_vline(x=_place(dimension, best), line={"color": GREEN, "dash": "dot", "width": 2})
    if side:
        figure.add_annotation(
            text="▲ best is at the edge", xref="paper", yref="paper", x=0 if side == "low" else 1, y=1.08,
            xanchor="left" if side == "low" else "right", showarrow=False, font={"color": VERMILLION},
        )  # fmt: skip
    figure.update_layout(margin={"l": 58, "r": 16, "t": 24, "b": 54})
    return figure


def pair(
    names: tuple[str, str],
    dimensions: tuple[Dimension, Dimension],
    settings: pd.DataFrame,
    trials: pd.DataFrame,
    best: tuple[Any, Any],
) -> go.Figure:
    """Draws two settings against each other, finished trials told apart by their rank.

    Args:
        names: Dotted config paths of the settings along x and y.
        dimensions: Their ranges or choices.
        settings: As `reports.tables.settings_table` gives it.
        trials: As `reports.tables.trials_table` gives it.
        best: The best settings' values; None for one that they do not have.
    """
    figure = base_figure(label(names[0]), label(names[1]), height=270)
    done = trials[trials["loss"].notna()]
    rank = done["loss"].rank(pct=True)
    for name, kept, colour, symbol in (
        ("worst quarter", rank > 0.75, VERMILLION, "x"),
        ("in between", (rank > 0.25) & (rank <= 0.75), GREY, "circle-open"),
        ("best quarter", rank <= 0.25, GREEN, "diamond"),
    ):
        numbers = list(done.loc[kept, "number"])
        x, y = ([_place(side, settings[path][number]) for number in numbers]
                for path, side in zip(names, dimensions, strict=True))  # fmt: skip
        figure.add_scatter(
            x=x, y=y, mode="markers", name=name, marker={"color": colour, "symbol": symbol, "size": 9},
            text=[f"trial {number}: loss {loss:.4f}" for number, loss in
                  zip(numbers, done.loc[kept, "loss"], strict=True)],
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(**_ticks(dimensions[0]))
    figure.update_yaxes(**_ticks(dimensions[1]))
    if best[0] is not None:
        figure.add_vline(x=_place(dimensions[0], best[0]), line={"color": GREEN, "dash": "dot", "width": 1.5})
    if best[1] is not None:
        figure.add_hline(y=_place(dimensions[1], best[1]), line={"color": GREEN, "dash": "dot", "width": 1.5})
    # The card's sentence says what the marks mean: three legends would take a third of each picture.
    figure.update_layout(showlegend=False, margin={"l": 68, "r": 12, "t": 12, "b": 54})
    return figure


def _title(path: str, dimension: Dimension) -> str:
    return label(path) + (" (log)" if dimension.log else "")


def _ticks(dimension: Dimension) -> dict[str, Any]:
    """An axis of a setting: choices in their order, decades, or plain numbers."""
    if dimension.choices is not None:
        words = [label(setting(choice)) for choice in dimension.choices]
        return {"tickvals": list(range(len(words))), "ticktext": words, "range": [-0.5, len(words) - 0.5]}
    if dimension.log:
        ticks = log_ticks(float(dimension.low or 1), float(dimension.high or 1))
        return {"type": "log", "tickvals": ticks, "ticktext": [setting(tick) for tick in ticks]}
    return {"nticks": 5, "tickformat": "d" if dimension.is_integer else None}


def _whole_range(dimension: Dimension) -> dict[str, Any]:
    """The range that was searched, with a margin; plotly would invent one where all trials chose the same value."""
    if dimension.choices is not None:
        return {}
    low, high = float(dimension.low or 0), float(dimension.high or 0)
    low, high = (math.log10(low), math.log10(high)) if dimension.log else (low, high)
    margin = 0.06 * (high - low) or 0.5
    return {"range": [low - margin, high + margin]}


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
        shares: As `reports.analyses.importance` gives it.
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


def which_change(rows: pd.DataFrame, gain: float) -> go.Figure:
    """Draws what each change brought on the path from the default, and what the winner loses without it.

    Args:
        rows: As `reports.attribution.rows` gives it.
        gain: Of the winner with all its changes, nats per token.
    """
    figure = base_figure("worth (nats per token)", "", height=170 + 56 * (len(rows) + 1))
    for word, (name, colour, pattern) in GAIN_STYLE.items():
        _gain_bars(figure, rows[rows["word"] == word], name, colour, pattern)
    for word, colour in ((COUNTS, ORANGE), (TIE, GREY), (WORSE, GREY)):
        _harm_marks(figure, rows[rows["word"] == word], colour)
    _gain_holes(figure, rows, gain)
    figure.add_bar(
        x=[gain], y=[len(rows)], orientation="h", width=0.4, marker={"color": GREEN}, showlegend=False,
        name="all changes together", hovertemplate="all changes together: %{x:+.4f}<extra></extra>",
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    names = [*map(_change_label, rows.to_dict("records")), "<b>all changes</b>"]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5])
    figure.update_layout(barmode="overlay")
    return figure


def _change_label(row: Mapping[Any, Any]) -> str:
    before, after = (label(plain(setting(row[name]), 16)) for name in ("before", "after"))
    mark = "" if row["word"] == COUNTS else f" ({row['word']})"
    return f"{label(plain(row['path'], 32))}<br>{before} → {after}{mark}"


def _gain_bars(figure: go.Figure, rows: pd.DataFrame, name: str, colour: str, pattern: str) -> None:
    known = rows[rows["gain"].notna()]
    if len(known):
        figure.add_bar(
            x=known["gain"].to_numpy(), y=known.index.to_numpy() - 0.15, orientation="h", width=0.3, name=name,
            error_x={"type": "data", "array": (known["gain_high"] - known["gain"]).to_numpy(), "color": colour},
            marker={"color": colour, "opacity": 0.55,
                    "pattern": {"shape": pattern, "solidity": 0.3, "fillmode": "overlay"}},
            text=interval_words(known, "gain"), hovertemplate="gave %{text}<extra></extra>", textposition="none",
        )  # fmt: skip


def _harm_marks(figure: go.Figure, rows: pd.DataFrame, colour: str) -> None:
    known = rows[rows["harm"].notna()]
    if len(known):
        figure.add_scatter(
            x=known["harm"].to_numpy(), y=known.index.to_numpy() + 0.2, mode="markers", name="lost without it",
            error_x={"type": "data", "array": (known["harm_high"] - known["harm"]).to_numpy(), "color": colour},
            marker={"color": colour, "symbol": "diamond", "size": 10}, showlegend=colour == ORANGE,
            text=interval_words(known, "harm"), hovertemplate="lost without it: %{text}<extra></extra>",
        )  # fmt: skip


def _gain_holes(figure: go.Figure, rows: pd.DataFrame, gain: float) -> None:
    """Marks at the edge what the winner does not train without, and at zero what was not measured on the way."""
    edge = max([gain, *rows["gain_high"].dropna(), *rows["harm_high"].dropna()])
    for column, x, shift, name, side, colour, symbol in (
        ("harm", edge, 0.2, "does not train", "left", VERMILLION, "x"),
        ("gain", 0.0, -0.15, "not measured", "right", PURPLE, "square-x-open"),
    ):
        places = rows.index[rows[column].isna()].to_numpy()
        if len(places):
            figure.add_scatter(
                x=[x] * len(places), y=places + shift, mode="markers+text", name=name, cliponaxis=False,
                text=[name] * len(places), textposition=f"middle {side}", showlegend=False, hoverinfo="skip",
                marker={"color": colour, "symbol": symbol, "size": 12},
            )  # fmt: skip


def parallel_coordinates(table: pd.DataFrame, dimensions: Mapping[str, Dimension]) -> go.Figure:
    """Draws the best trials as lines through the ranges of their settings, one row a setting.

    Drawn with ordinary lines, one row below another: readable on a phone and on paper, and without WebGL.

    Args:
        table: As `reports.analyses.parallel_table` gives it, best first.
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
