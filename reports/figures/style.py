"""The style that all figures share: colours, marks, and an empty figure to draw in.

Colours are Okabe and Ito's (2008), chosen to be told apart by colour-blind readers; shape or dash says the same again.
Backgrounds are transparent and text colours are left to the page, which knows whether it is dark.
"""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from reports.tables.roles import DEFAULT, PROMOTED, WINNER, is_single_run

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILLION = "#D55E00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
GREY = "#8A8F98"

# Colour and symbol of a trial by its status.
STATUS_STYLE = {
    "finished": (BLUE, "circle"),
    "pruned": (GREY, "triangle-down-open"),
    "diverged": (VERMILLION, "x"),
    "out of memory": (PURPLE, "square-x-open"),
    "crashed": (ORANGE, "star-diamond"),
    "interrupted": (SKY, "diamond-open"),
    "running": (GREEN, "circle-open"),
}


# Colour and symbol of the ring around a trial that matters, by what it is called; the first of its names counts.
_RINGS = {
    WINNER: (GREEN, "star-diamond-open"),
    PROMOTED: (GREEN, "circle-open"),
    DEFAULT: (ORANGE, "diamond-open"),
}
_RING_OF_A_SINGLE_RUN = (PURPLE, "square-open")


def ring_of(name: str) -> tuple[str, str]:
    """Return colour and symbol for a trial that matters.

    Args:
        name: As `reports.tables.roles.named_trials` calls it.
    """
    words = name.split(", ")
    for word in (WINNER, PROMOTED):
        if word in words:
            return _RINGS[word]
    return _RING_OF_A_SINGLE_RUN if any(map(is_single_run, words)) else _RINGS[DEFAULT]


def add_rings(figure: go.Figure, names: Mapping[int, str], places: Mapping[int, tuple[float, float]]) -> None:
    """Mark the trials that matter; the legend says what each is.

    Args:
        figure: Where they are drawn.
        names: What they are called, by number.
        places: Where each trial is drawn, by number.
    """
    for number, name in names.items():
        if number not in places:
            continue
        x, y = places[number]
        colour, symbol = ring_of(name)
        figure.add_scatter(
            x=[x], y=[y], mode="markers", name=f"{name} (trial {number})", hoverinfo="skip", cliponaxis=False,
            marker={"color": colour, "symbol": symbol, "size": 17, "line": {"width": 2.5}},
        )  # fmt: skip


def base_figure(x_title: str, y_title: str, height: int = 380) -> go.Figure:
    """Return an empty figure in the style of the reports.

    Args:
        x_title: The axis' title with its unit.
        y_title: The axis' title with its unit.
        height: Pixels, > 0.
    """
    figure = go.Figure(layout={"template": "none"})

    figure.update_layout(
        height=height,
        # A legend or a label that asks for a wider margin makes plotly draw the figure twice: these hold most of them.
        margin={"l": 68, "r": 16, "t": 48, "b": 56},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
        dragmode=False,
        xaxis={"title": {"text": x_title}, "automargin": True, "zeroline": False},
        yaxis={"title": {"text": y_title}, "automargin": True, "zeroline": False},
    )
    return figure
