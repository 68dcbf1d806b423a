"""Plotly figures of the metric against something else that is wanted, such as speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from autotune.core.metric import TEXT_LOSS, Metric
from reports.figures.scale import Scale, digits, drawn
from reports.figures.style import BLUE, GREEN, ORANGE, add_rings, base_figure
from reports.formats import label
from reports.tables.fronts import speed_front

Names = Mapping[int, str] | None


def speed_against_loss(
    trials: pd.DataFrame, baseline: int | None, names: Names = None, metric: Metric = TEXT_LOSS
) -> go.Figure:
    """Draw training speed against final loss with the line of trials that no other beats in both.

    Args:
        trials: As `reports.tables.trials.trials_table` gives it.
        baseline: The default's trial number, or None.
        names: What the trials that matter are called, by number.
        metric: What trials report.
    """
    unit = label(metric.budget_unit)
    wanted = _Wanted("tokens_per_s", f"training speed ({unit} per second)", f"{unit}/s")
    return _trade_off(trials, baseline, speed_front(trials), wanted, names or {}, metric)


def seconds_against_loss(
    trials: pd.DataFrame,
    baseline: int | None,
    front: pd.DataFrame,
    names: Names = None,
    metric: Metric = TEXT_LOSS,
) -> go.Figure:
    """Draw training time against final loss with the line of trials that no other beats in both.

    Args:
        trials: As `reports.tables.trials.trials_table` gives it.
        baseline: The default's trial number, or None.
        front: As `reports.tables.fronts.front_table` gives it.
        names: What the trials that matter are called, by number.
        metric: What trials report.
    """
    wanted = _Wanted("training_s", "training time (seconds)", "s")
    return _trade_off(trials, baseline, front, wanted, names or {}, metric)


@dataclass(frozen=True)
class _Wanted:
    """What is wanted beside a good metric: a column of the tables, its title with its unit, and its unit in short."""

    column: str
    title: str
    unit: str


def _trade_off(
    trials: pd.DataFrame,
    baseline: int | None,
    front: pd.DataFrame,
    wanted: _Wanted,
    names: Mapping[int, str],
    metric: Metric,
) -> go.Figure:
    """Draw something that is wanted beside a good metric, and the line of trials that no other beats in both.

    Args:
        trials: As `reports.tables.trials.trials_table` gives it.
        baseline: The default's trial number, or None.
        front: The trials of that line, in order.
        wanted: What that is.
        names: What the trials that matter are called, by number.
        metric: What trials report.
    """
    column, unit = wanted.column, wanted.unit
    figure = base_figure(wanted.title, label(metric.title))
    done = trials[trials["loss"].notna() & trials[column].notna()]
    is_default = done["number"] == baseline
    scale = Scale.of(done["loss"], done.loc[is_default, "loss"], metric)

    shown, name_of_metric = digits(metric), label(metric.name)
    marks = [
        ("trial", done[~is_default], {"color": BLUE, "symbol": "circle", "size": 9}),
        ("default", done[is_default], {"color": ORANGE, "symbol": "diamond", "size": 13}),
    ]
    for name, group, marker in marks:
        figure.add_scatter(
            x=group[column].to_numpy(), y=scale.place(group["loss"]), mode="markers", name=name, cliponaxis=False,
            text=[f"trial {number}" for number in group["number"]], customdata=drawn(group["loss"], metric),
            hovertemplate=f"%{{text}}: %{{x:,.4~r}} {unit}, {name_of_metric} %{{customdata:{shown}}}<extra></extra>",
            marker=marker,
        )  # fmt: skip

    figure.add_scatter(
        x=front[column].to_numpy(), y=drawn(front["loss"], metric), mode="lines", name="best trade-offs",
        line={"color": GREEN, "dash": "dot", "width": 2}, hoverinfo="skip",
    )  # fmt: skip
    marked = zip(done["number"], done[column], scale.place(done["loss"]), strict=True)
    places = {int(number): (float(x), float(value)) for number, x, value in marked}
    add_rings(figure, {number: name for number, name in names.items() if number != baseline}, places)
    figure.update_yaxes(range=scale.range)
    return figure
