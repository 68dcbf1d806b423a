"""The Plotly figures of the losses at several learning rates and batches."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from autotune.core.promotion_results import Promotion, Scaling
from reports.figures.style import BLUE, ORANGE, base_figure
from reports.formats import tokens
from reports.tables.promotion import bracket_table


def brackets(promotion: Promotion) -> list[go.Figure]:
    """Draw the losses of the brackets over the factor of each kind of setting, and the factor that was chosen."""
    chosen = {"learning rates": promotion.scaling, "batch": promotion.batch}
    table = bracket_table(promotion)
    multiplied = table["multiplied"].unique().tolist()
    return [_figure(table[table["multiplied"] == name], name, chosen[name]) for name in multiplied]


def _figure(table: pd.DataFrame, name: str, chosen: Scaling | None) -> go.Figure:
    figure = base_figure(f"{name} as a multiple of the trial's", "loss (nats per token)")

    styles = ((BLUE, "circle"), (ORANGE, "diamond"))
    for length, (colour, symbol) in zip(table["tokens"].unique().tolist(), styles, strict=False):
        group = table[table["tokens"] == length]
        figure.add_scatter(
            x=group["factor"],
            y=group["loss"],
            name=tokens(length),
            mode="lines+markers",
            line={"color": colour},
            marker={"symbol": symbol, "size": 9},
            hovertemplate="x %{x:.3g}: loss %{y:.4f}<extra></extra>",
        )

    if chosen is not None:
        figure.add_vline(x=chosen.factor, line={"dash": "dot"}, annotation_text="chosen for the long run")

    figure.update_xaxes(type="log")
    return figure
