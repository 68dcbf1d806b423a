"""The Plotly figure of the losses at several learning rates."""

from __future__ import annotations

import plotly.graph_objects as go

from autotune.core.promotion_results import Promotion
from reports.figures.style import BLUE, ORANGE, base_figure
from reports.formats import tokens
from reports.tables.promotion import bracket_table


def learning_rates(promotion: Promotion) -> go.Figure:
    """Draw the losses of the brackets over the factor of the learning rates, and the factor that was chosen."""
    table = bracket_table(promotion)
    figure = base_figure("learning rates as a multiple of the trial's", "loss (nats per token)")

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

    if promotion.scaling is not None:
        figure.add_vline(x=promotion.scaling.factor, line={"dash": "dot"}, annotation_text="chosen for the long run")

    figure.update_xaxes(type="log")
    return figure
