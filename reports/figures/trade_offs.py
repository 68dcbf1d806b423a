"""Plotly figures of the loss against something else that is wanted, such as speed."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from reports.figures.scale import Scale
from reports.figures.style import BLUE, GREEN, ORANGE, add_rings, base_figure
from reports.tables.fronts import speed_front

Names = Mapping[int, str] | None


def speed_against_loss(trials: pd.DataFrame, baseline: int | None, names: Names = None) -> go.Figure:
    """Draw training speed against final loss with the line of trials that no other beats in both.

    Args:
        trials: As `reports.tables.trials.trials_table` gives it.
        baseline: The default's trial number, or None.
        names: What the trials that matter are called, by number.
    """
    title = "training speed (tokens per second)"
    return _trade_off(trials, baseline, speed_front(trials), "tokens_per_s", title, "tokens/s", names)


def seconds_against_loss(
    trials: pd.DataFrame, baseline: int | None, front: pd.DataFrame, names: Names = None
) -> go.Figure:
    """Draw training time against final loss with the line of trials that no other beats in both.

    Args:
        trials: As `reports.tables.trials.trials_table` gives it.
        baseline: The default's trial number, or None.
        front: As `reports.tables.fronts.front_table` gives it.
        names: What the trials that matter are called, by number.
    """
    return _trade_off(trials, baseline, front, "training_s", "training time (seconds)", "s", names)


def _trade_off(
    trials: pd.DataFrame,
    baseline: int | None,
    front: pd.DataFrame,
    column: str,
    title: str,
    unit: str,
    names: Names,
) -> go.Figure:
    """Draw something that is wanted beside a low loss, and the line of trials that no other beats in both.

    Args:
        trials: As `reports.tables.trials.trials_table` gives it.
        baseline: The default's trial number, or None.
        front: The trials of that line, in order.
        column: Of the tables, what is wanted.
        title: The same for the reader, with its unit.
        unit: Its unit in short.
        names: What the trials that matter are called, by number.
    """
    figure = base_figure(title, "loss (nats per token)")
    done = trials[trials["loss"].notna() & trials[column].notna()]
    is_default = done["number"] == baseline
    scale = Scale.of(done["loss"], done.loc[is_default, "loss"])

    marks = [
        ("trial", done[~is_default], {"color": BLUE, "symbol": "circle", "size": 9}),
        ("default", done[is_default], {"color": ORANGE, "symbol": "diamond", "size": 13}),
    ]
    for name, group, marker in marks:
        figure.add_scatter(
            x=group[column].to_numpy(), y=scale.place(group["loss"]), mode="markers", name=name, cliponaxis=False,
            text=[f"trial {number}" for number in group["number"]], customdata=group["loss"].to_numpy(),
            hovertemplate=f"%{{text}}: %{{x:,.4~r}} {unit}, loss %{{customdata:.4f}}<extra></extra>", marker=marker,
        )  # fmt: skip

    figure.add_scatter(
        x=front[column].to_numpy(), y=front["loss"].to_numpy(), mode="lines", name="best trade-offs",
        line={"color": GREEN, "dash": "dot", "width": 2}, hoverinfo="skip",
    )  # fmt: skip
    drawn = zip(done["number"], done[column], scale.place(done["loss"]), strict=True)
    places = {int(number): (float(x), float(loss)) for number, x, loss in drawn}
    add_rings(figure, {number: name for number, name in (names or {}).items() if number != baseline}, places)
    figure.update_yaxes(range=[scale.low, scale.high])
    return figure
