"""The style that all figures share: colours, marks, and an empty figure to draw in.

Colours are Okabe and Ito's (2008), chosen to be told apart by colour-blind readers; shape or dash says the same again.
Backgrounds are transparent and text colours are left to the page, which knows whether it is dark.
"""

from __future__ import annotations

import plotly.graph_objects as go

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
