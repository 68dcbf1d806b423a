"""Plotly figures of the losses of a study, from its tables.

Colours are Okabe and Ito's (2008), chosen to be told apart by colour-blind readers; shape or dash says the same again.
Backgrounds are transparent and text colours are left to the page, which knows whether it is dark.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from reports import analyses, tables

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, GREY = "#56B4E9", "#CC79A7", "#8A8F98"
STATUS_STYLE = {
    "finished": (BLUE, "circle"),
    "pruned": (GREY, "triangle-down-open"),
    "diverged": (VERMILLION, "x"),
    "out of memory": (PURPLE, "square-x-open"),
    "crashed": (ORANGE, "star-diamond"),
    "interrupted": (SKY, "diamond-open"),
    "running": (GREEN, "circle-open"),
}
HEIGHT = 380
BEST_CURVES = 20
# Losses above the worst finished one by this share of the finished ones' spread are drawn at the top edge.
HEADROOM_FRAC = 0.35


def base_figure(x_title: str, y_title: str, height: int = HEIGHT) -> go.Figure:
    """Returns an empty figure in the house style.

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


def visible_range(trials: pd.DataFrame, baseline: float | None) -> tuple[float, float]:
    """Returns the losses that are drawn to scale; a diverged trial must not crush all others.

    Args:
        trials: As `reports.tables.trials_table` gives it.
        baseline: The default's loss in nats per token, or None.
    """
    losses = [*trials["loss"].dropna(), *([] if baseline is None else [baseline])]
    if not losses:
        losses = list(trials["last_loss"].dropna()) or [0.0, 1.0]
    low, high = min(losses), max(losses)
    spread = max(high - low, 0.01 * abs(high), 1e-9)
    return low - 0.08 * spread, high + HEADROOM_FRAC * spread


def best_so_far(trials: pd.DataFrame, baseline: float | None, sigma: float | None) -> go.Figure:
    """Draws every trial by its status, the best so far, and the default with its noise.

    Args:
        trials: As `reports.tables.trials_table` gives it.
        baseline: The default's loss in nats per token, or None.
        sigma: Standard deviation between seeds in nats per token, or None.
    """
    figure = base_figure("trial", "loss (nats per token)")
    low, high = visible_range(trials, baseline)
    if baseline is not None:
        _baseline(figure, baseline, sigma)
    ended = trials[trials["status"].isin(list(STATUS_STYLE))]
    for status, group in ended.groupby("status", sort=False):
        _status_points(figure, str(status), group, high)
    best = tables.best_so_far(trials)
    figure.add_scatter(
        x=best["number"].to_numpy(), y=best["best"].to_numpy(), mode="lines", name="best so far",
        line={"color": GREEN, "width": 2.5, "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    figure.update_yaxes(range=[low, high])
    return figure


def _status_points(figure: go.Figure, status: str, group: pd.DataFrame, top: float) -> None:
    colour, symbol = STATUS_STYLE[status]
    known = group["loss"].fillna(group["last_loss"])
    texts = [
        f"trial {number}: {status}, " + ("no loss" if np.isnan(loss) else f"loss {loss:.4f}")
        for number, loss in zip(group["number"], known, strict=True)
    ]
    figure.add_scatter(
        x=group["number"].to_numpy(), y=known.fillna(top).clip(upper=top).to_numpy(), mode="markers", name=status,
        text=texts, hovertemplate="%{text}<extra></extra>", cliponaxis=False,
        marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 1.5 if "open" in symbol else 0}},
    )  # fmt: skip


def _baseline(figure: go.Figure, baseline: float, sigma: float | None) -> None:
    figure.add_hline(y=baseline, line={"color": ORANGE, "dash": "dash", "width": 2})
    if sigma:
        low, high = baseline - 2 * sigma, baseline + 2 * sigma
        figure.add_hrect(y0=low, y1=high, fillcolor=ORANGE, opacity=0.18, line={"width": 0}, layer="below")
    # Shapes have no legend entry; an empty trace gives them one.
    figure.add_scatter(
        x=[None], y=[None], mode="lines", name="default ± noise" if sigma else "default",
        line={"color": ORANGE, "dash": "dash", "width": 2},
    )  # fmt: skip


def finals(runs: pd.DataFrame, arms: pd.DataFrame) -> go.Figure:
    """Draws each arm's runs, its mean and its 95 % interval.

    Args:
        runs: As `reports.tables.finals_runs` gives it.
        arms: As `reports.tables.finals_table` gives it.
    """
    figure = base_figure("loss (nats per token)", "", height=140 + 64 * len(arms))
    for stage, symbol, name in (("select", "circle-open", "chose the winner"), ("prove", "circle", "fresh seeds")):
        group = runs[runs["stage"] == stage] if stage == "select" else runs[runs["stage"] != "select"]
        if len(group):
            figure.add_scatter(
                x=group["loss"].to_numpy(), y=list(group["arm_name"]), mode="markers", name=name,
                text=[f"seed {seed}: {loss:.4f}" for seed, loss in zip(group["seed"], group["loss"], strict=True)],
                hovertemplate="%{text}<extra></extra>", marker={"color": GREY, "symbol": symbol, "size": 9},
            )  # fmt: skip
    colours = [ORANGE if name == "default" else BLUE for name in arms["arm_name"]]
    half = (arms["high"] - arms["mean"]).fillna(0).to_numpy()
    for colour in dict.fromkeys(colours):
        kept = [place for place, used in enumerate(colours) if used == colour]
        figure.add_scatter(
            x=arms["mean"].to_numpy()[kept], y=[arms["arm_name"].iloc[place] for place in kept], mode="markers",
            name="default: mean, 95 % interval" if colour == ORANGE else "finalist: mean, 95 % interval",
            error_x={"type": "data", "array": half[kept], "thickness": 3, "width": 8, "color": colour},
            marker={"color": colour, "symbol": "diamond", "size": 13},
            hovertemplate="mean %{x:.4f}<extra></extra>",
        )  # fmt: skip
    order = list(arms["arm_name"])
    figure.update_yaxes(autorange="reversed", type="category", categoryorder="array", categoryarray=order)
    figure.update_layout(margin={"l": 96})
    return figure


def learning_curves(curves: pd.DataFrame, trials: pd.DataFrame, baseline: int | None) -> go.Figure:
    """Draws the 10-90 % band of all trials, the best 20 and the default.

    Args:
        curves: As `reports.tables.curves_table` gives it for the search.
        trials: As `reports.tables.trials_table` gives it.
        baseline: The default's trial number, or None.
    """
    figure = base_figure("training tokens seen", "loss (nats per token)")
    band = tables.curve_band(curves)
    x = band["tokens_seen"].to_numpy(dtype=float)
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]), y=np.concatenate([band["high"], band["low"][::-1]]), mode="lines",
        fill="toself", fillcolor="rgba(138,143,152,0.25)", line={"width": 0}, name="10–90 % of trials",
        hoverinfo="skip",
    )  # fmt: skip
    best = trials.nsmallest(BEST_CURVES, "loss")["number"]
    for place, number in enumerate(best):
        if number != baseline:
            curve = curves[curves["number"] == number]
            _curve(figure, curve, f"trial {number}", BLUE, "solid", 2.5 if place == 0 else 1, place == 0)
    default = curves[curves["number"] == baseline]
    if len(default):
        _curve(figure, default, "default", ORANGE, "dash", 2.5, True)
    if len(band) > 1:  # the first evaluation, before much was learnt, would flatten the rest
        shown = band.iloc[max(1, len(band) // 10) :]
        low = float(np.nanmin([shown["low"].min(), trials["loss"].min()]))
        high = float(shown["high"].max())
        figure.update_yaxes(range=[low - 0.05 * (high - low), high + 0.05 * (high - low)])
    return figure


def _curve(figure: go.Figure, curve: pd.DataFrame, name: str, colour: str, dash: str, width: float, main: bool) -> None:
    losses = curve["val_loss"].to_numpy(dtype=float)
    title = name if name == "default" else f"best ({name})"
    figure.add_scatter(
        x=curve["tokens_seen"].to_numpy(), y=np.where(np.isfinite(losses), losses, np.nan), mode="lines",
        name=title if main else name, showlegend=main, opacity=1 if main else 0.4,
        line={"color": colour, "dash": dash, "width": width},
        hovertemplate=f"{name}: %{{y:.4f}} at %{{x:,}} tokens<extra></extra>",
    )  # fmt: skip


def pruning_audit(audit: analyses.PruningAudit) -> go.Figure:
    """Draws the loss at the first rung against the final loss.

    Args:
        audit: As `reports.analyses.pruning_audit` gives it.
    """
    figure = base_figure(f"loss at {audit.rung_words}", "final loss (nats per token)")
    table = audit.table
    figure.add_scatter(
        x=table["rung_loss"].to_numpy(), y=table["final_loss"].to_numpy(), mode="markers", showlegend=False,
        text=[f"trial {number}" for number in table["number"]],
        hovertemplate="%{text}: %{x:.4f} → %{y:.4f}<extra></extra>", marker={"color": BLUE, "size": 9},
    )  # fmt: skip
    figure.add_vline(x=float(table["rung_loss"].median()), line={"color": GREY, "dash": "dot"})
    figure.update_layout(margin={"t": 20})
    return figure


def speed_against_loss(trials: pd.DataFrame, baseline: int | None) -> go.Figure:
    """Draws training speed against final loss with the line of trials that no other beats in both.

    Args:
        trials: As `reports.tables.trials_table` gives it.
        baseline: The default's trial number, or None.
    """
    title = "training speed (tokens per second)"
    return trade_off(trials, baseline, analyses.pareto(trials), "tokens_per_s", title, "tokens/s")


def trade_off(
    trials: pd.DataFrame, baseline: int | None, front: pd.DataFrame, column: str, title: str, unit: str
) -> go.Figure:
    """Draws something that is wanted beside a low loss, and the line of trials that no other beats in both.

    Args:
        trials: As `reports.tables.trials_table` gives it.
        baseline: The default's trial number, or None.
        front: The trials of that line, in order.
        column: Of the tables, what is wanted.
        title: The same for the reader, with its unit.
        unit: Its unit in short.
    """
    figure = base_figure(title, "loss (nats per token)")
    done = trials[trials["loss"].notna() & trials[column].notna()]
    for name, group, colour, symbol in (
        ("trial", done[done["number"] != baseline], BLUE, "circle"),
        ("default", done[done["number"] == baseline], ORANGE, "diamond"),
    ):
        figure.add_scatter(
            x=group[column].to_numpy(), y=group["loss"].to_numpy(), mode="markers", name=name,
            text=[f"trial {number}" for number in group["number"]],
            hovertemplate=f"%{{text}}: %{{x:,.4~r}} {unit}, loss %{{y:.4f}}<extra></extra>",
            marker={"color": colour, "symbol": symbol, "size": 9 if name == "trial" else 13},
        )  # fmt: skip
    figure.add_scatter(
        x=front[column].to_numpy(), y=front["loss"].to_numpy(), mode="lines", name="best trade-offs",
        line={"color": GREEN, "dash": "dot", "width": 2}, hoverinfo="skip",
    )  # fmt: skip
    return figure
