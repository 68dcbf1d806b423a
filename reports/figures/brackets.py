"""The Plotly figures of the metric at several learning rates and batches."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from autotune.core.metric import TEXT_LOSS, Metric
from autotune.core.promotion_results import Promotion, Scaling
from reports.figures.scale import digits, drawn
from reports.figures.style import BLUE, ORANGE, base_figure
from reports.formats import label, tokens
from reports.tables.promotion import bracket_table


def brackets(promotion: Promotion, metric: Metric = TEXT_LOSS) -> list[go.Figure]:
    """Draw what the brackets came to over the factor of each kind of setting, and the factor that was chosen."""
    chosen = {"learning rates": promotion.scaling, "batch": promotion.batch}
    table = bracket_table(promotion)
    multiplied = table["multiplied"].unique().tolist()
    return [_figure(table[table["multiplied"] == name], name, chosen[name], metric) for name in multiplied]


def _figure(table: pd.DataFrame, name: str, chosen: Scaling | None, metric: Metric) -> go.Figure:
    figure = base_figure(f"{name} as a multiple of the trial's", label(metric.title))

    styles = ((BLUE, "circle"), (ORANGE, "diamond"))
    for length, (colour, symbol) in zip(table["tokens"].unique().tolist(), styles, strict=False):
        group = table[table["tokens"] == length]
        figure.add_scatter(
            x=group["factor"],
            y=drawn(group["loss"], metric),
            name=tokens(length, label(metric.budget_unit)),
            mode="lines+markers",
            line={"color": colour},
            marker={"symbol": symbol, "size": 9},
            hovertemplate=f"x %{{x:.3g}}: {label(metric.name)} %{{y:{digits(metric)}}}<extra></extra>",
        )

    if chosen is not None:
        figure.add_vline(x=chosen.factor, line={"dash": "dot"}, annotation_text="chosen for the long run")

    figure.update_xaxes(type="log")
    return figure
