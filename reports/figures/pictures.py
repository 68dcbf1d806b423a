"""Figures as PNG files, where a browser is there to draw them."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from reports.figures.figure_cards import Card
from reports.formats import plain

# Pixels.
WIDTH = 900
# A browser that takes longer for one picture will not draw it at all.
_PATIENCE_S = 30
# Colours of text and lines on white; a page has its own by its theme.
_INK = "#1c2430"
_LINE = "#dde1e7"


def of_cards(cards: list[Card]) -> dict[str, go.Figure]:
    """Return the figures of cards by file name: "settings.png", "settings-2.png", ...

    Args:
        cards: Figure cards; those without a figure are left out.
    """
    named = {}
    for card in cards:
        for place, figure in enumerate(card.plots, start=1):
            suffix = "" if place == 1 else f"-{place}"
            named[f"{card.key}{suffix}.png"] = figure
    return named


def write_pictures(named: Mapping[str, go.Figure], folder: Path) -> str:
    """Write figures as PNG files, each atomically; whatever is missing for that costs no more than the pictures.

    Args:
        named: Figures by file name.
        folder: Where they go; made if missing.

    Returns:
        "" when all were written, else why there are none and what to do.
    """
    if find_spec("kaleido") is None:
        return "PNG skipped: the Python package kaleido is not installed (pip install kaleido)"

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".png-") as drawn:
            _draw(named, Path(drawn))
            for name in named:
                os.replace(Path(drawn) / name, folder / name)
    except Exception as error:  # noqa: BLE001 - of browsers and their drivers, whatever they raise
        reason = plain(error.args[0] if error.args else type(error).__name__)
        return f"PNG skipped: {reason} `autotune doctor` says which browsers would work."

    return ""


def _draw(named: Mapping[str, go.Figure], folder: Path) -> None:
    import kaleido

    # It logs a traceback of each message from the browser that it cannot read, and goes on: nothing for our reader.
    logging.getLogger("choreographer").setLevel(logging.CRITICAL)

    wanted: list[dict[str, Any]] = []
    for name, figure in named.items():
        wanted.append({"fig": _on_white(figure), "path": folder / name, "opts": {"format": "png", "width": WIDTH}})

    # Without `mathjax` set to False it would ask the network for MathJax.
    kaleido.write_fig_from_object_sync(wanted, kopts={"mathjax": False, "timeout": _PATIENCE_S})


def _on_white(figure: go.Figure) -> go.Figure:
    """Return a copy with the background and colours that a page would give it by its theme."""
    copy = go.Figure(figure)
    copy.update_layout(paper_bgcolor="white", plot_bgcolor="white", font_color=_INK)
    copy.update_xaxes(gridcolor=_LINE, linecolor=_LINE, tickcolor=_LINE)
    copy.update_yaxes(gridcolor=_LINE, linecolor=_LINE, tickcolor=_LINE)
    return copy
