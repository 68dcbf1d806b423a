"""Plotly figures of the losses of a study, from its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from autotune.core.statistics import INTERVAL
from reports.figures.scale import Scale
from reports.figures.style import BLUE, GREEN, GREY, ORANGE, STATUS_STYLE, add_rings, base_figure, ring_of
from reports.tables.curves import curve_band
from reports.tables.pruning import PruningAudit
from reports.tables.roles import PROMOTED, WINNER
from reports.tables.trials import best_so_far_table

# Trials whose curves are drawn.
BEST_CURVES = 20
# Losses above the worst finished one by more than this share of the finished ones' spread are drawn at the top.
_HEADROOM_FRAC = 0.25


def best_so_far(
    trials: pd.DataFrame, baseline: float | None, sigma: float | None, names: Mapping[int, str] | None = None
) -> go.Figure:
    """Draw every trial by its status, the best so far, the default with its noise, and which trials matter.

    Args:
        trials: As `reports.tables.trials.trials_table` gives it.
        baseline: The default's loss in nats per token, or None.
        sigma: Standard deviation between seeds in nats per token, or None.
        names: What the trials that matter are called, by number.
    """
    figure = base_figure("trial", "loss (nats per token)")
    low, high = _visible_range(trials, baseline)

    if baseline is not None:
        _add_baseline(figure, baseline, sigma)

    known = trials[trials["status"].isin(list(STATUS_STYLE))]
    for status, group in known.groupby("status", sort=False):
        _add_trials(figure, str(status), group, high)

    best = best_so_far_table(trials)
    figure.add_scatter(
        x=best["number"].to_numpy(), y=best["best"].to_numpy(), mode="lines", name="best so far",
        line={"color": GREEN, "width": 2.5, "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    done = trials[trials["loss"].notna()]
    places = zip(done["number"], done["loss"].clip(upper=high), strict=True)
    add_rings(figure, names or {}, {int(number): (number, loss) for number, loss in places})
    figure.update_yaxes(range=[low, high])
    return figure


def _visible_range(trials: pd.DataFrame, baseline: float | None) -> tuple[float, float]:
    """Return the losses that are drawn to scale; a diverged trial, or a very poor one, must not crush all others."""
    keep = [] if baseline is None else [baseline]
    losses = list(trials["loss"].dropna())
    if not losses and not keep:
        losses = list(trials["last_loss"].dropna())

    scale = Scale.of(losses, keep)
    return scale.low, scale.high + _HEADROOM_FRAC * (scale.high - scale.low)


def _add_baseline(figure: go.Figure, baseline: float, sigma: float | None) -> None:
    name = "default"
    figure.add_hline(y=baseline, line={"color": ORANGE, "dash": "dash", "width": 2})

    if sigma:
        name = "default ± noise"
        low = baseline - 2 * sigma
        high = baseline + 2 * sigma
        figure.add_hrect(y0=low, y1=high, fillcolor=ORANGE, opacity=0.18, line={"width": 0}, layer="below")

    # Shapes have no legend entry; an empty trace gives them one.
    figure.add_scatter(
        x=[None], y=[None], mode="lines", name=name, line={"color": ORANGE, "dash": "dash", "width": 2}
    )  # fmt: skip


def _add_trials(figure: go.Figure, status: str, group: pd.DataFrame, top: float) -> None:
    colour, symbol = STATUS_STYLE[status]
    outline = 1.5 if "open" in symbol else 0
    losses = group["loss"].fillna(group["last_loss"])

    texts = []
    for number, loss in zip(group["number"], losses, strict=True):
        known = "no loss" if np.isnan(loss) else f"loss {loss:.4f}"
        texts.append(f"trial {number}: {status}, {known}")

    figure.add_scatter(
        x=group["number"].to_numpy(), y=losses.fillna(top).clip(upper=top).to_numpy(), mode="markers", name=status,
        text=texts, hovertemplate="%{text}<extra></extra>", cliponaxis=False,
        marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": outline}},
    )  # fmt: skip


def finals(runs: pd.DataFrame, arms: pd.DataFrame, names: Mapping[int, str] | None = None) -> go.Figure:
    """Draw each arm's runs, its mean and its 95 % interval; a bar may go on beyond the scale of the runs.

    Args:
        runs: As `reports.tables.finals.finals_runs` gives it.
        arms: As `reports.tables.finals.finals_table` gives it.
        names: What the trials that matter are called, by number.
    """
    figure = base_figure("loss (nats per token)", "", height=140 + 64 * len(arms))

    has_chosen = runs["stage"] == "select"
    _add_final_runs(figure, runs[has_chosen], "circle-open", "chose the winner")
    _add_final_runs(figure, runs[~has_chosen], "circle", "fresh seeds")

    is_default = arms["arm_name"] == "default"
    means = [
        (arms[is_default], ORANGE, f"default: mean, {INTERVAL}"),
        (arms[~is_default], BLUE, f"finalist: mean, {INTERVAL}"),
    ]
    for group, colour, name in means:
        _add_means(figure, group, colour, name)

    order = list(arms["arm_name"])
    labels = [_arm_label(arm, name, names or {}) for arm, name in zip(arms["arm"], order, strict=True)]
    figure.update_yaxes(autorange="reversed", type="category", categoryorder="array", categoryarray=order)
    figure.update_yaxes(tickvals=order, ticktext=labels)
    figure.update_xaxes(range=_range_of_runs(runs, arms))
    figure.update_layout(margin={"l": 104})
    return figure


def _arm_label(arm: int, name: str, names: Mapping[int, str]) -> str:
    """Return what stands beside an arm: its trial, and below it what that is called."""
    words = [word for word in names.get(arm, "").split(", ") if word in (WINNER, PROMOTED)]
    return "<br>".join([name, *words])


def _range_of_runs(runs: pd.DataFrame, arms: pd.DataFrame) -> list[float]:
    """Return the losses that are shown: all runs, and intervals as far as they do not squeeze those.

    The interval of two seeds can be many times as long as the runs are apart.
    """
    low, high = float(runs["loss"].min()), float(runs["loss"].max())
    room = max(high - low, 0.001 * abs(high), 1e-9)
    ends = [end for end in (*arms["low"], *arms["high"]) if math.isfinite(end)]

    lowest = max(min([low, *ends]), low - room)
    highest = min(max([high, *ends]), high + room)
    margin = 0.06 * (highest - lowest)
    return [lowest - margin, highest + margin]


def _add_final_runs(figure: go.Figure, runs: pd.DataFrame, symbol: str, name: str) -> None:
    if not len(runs):
        return

    texts = [f"seed {seed}: {loss:.4f}" for seed, loss in zip(runs["seed"], runs["loss"], strict=True)]
    figure.add_scatter(
        x=runs["loss"].to_numpy(), y=list(runs["arm_name"]), mode="markers", name=name,
        text=texts, hovertemplate="%{text}<extra></extra>", marker={"color": GREY, "symbol": symbol, "size": 9},
    )  # fmt: skip


def _add_means(figure: go.Figure, arms: pd.DataFrame, colour: str, name: str) -> None:
    if not len(arms):
        return

    half_widths = (arms["high"] - arms["mean"]).fillna(0).to_numpy()
    figure.add_scatter(
        x=arms["mean"].to_numpy(), y=list(arms["arm_name"]), mode="markers", name=name,
        error_x={"type": "data", "array": half_widths, "thickness": 3, "width": 8, "color": colour},
        marker={"color": colour, "symbol": "diamond", "size": 13}, hovertemplate="mean %{x:.4f}<extra></extra>",
    )  # fmt: skip


def learning_curves(
    curves: pd.DataFrame, trials: pd.DataFrame, baseline: int | None, names: Mapping[int, str] | None = None
) -> go.Figure:
    """Draw the 10-90 % band of all trials, the best 20, the default, and those that matter.

    Args:
        curves: As `reports.tables.curves.curves_table` gives it for the search.
        trials: As `reports.tables.trials.trials_table` gives it.
        baseline: The default's trial number, or None.
        names: What the trials that matter are called, by number.
    """
    names = names or {}
    figure = base_figure("training tokens seen", "loss (nats per token)")
    band = curve_band(curves)
    _add_band(figure, band)

    best_numbers = list(trials.nsmallest(BEST_CURVES, "loss")["number"])
    for number in best_numbers:
        curve = curves[curves["number"] == number]
        if number == baseline:
            continue
        if number not in names:
            _add_faint_curve(figure, curve, f"trial {number}")

    for number, name in names.items():
        curve = curves[curves["number"] == number]
        if number != baseline and len(curve):
            colour, _ = ring_of(name)
            _add_main_curve(figure, curve, f"trial {number}", f"{name} (trial {number})", colour, "solid")

    default = curves[curves["number"] == baseline]
    if len(default):
        _add_main_curve(figure, default, "default", names.get(baseline or 0, "default"), ORANGE, "dash")

    if len(band) > 1:
        figure.update_yaxes(range=_range_after_the_start(band, trials))
    return figure


def _add_band(figure: go.Figure, band: pd.DataFrame) -> None:
    tokens = band["tokens_seen"].to_numpy(dtype=float)

    # One closed line: along the upper edge, and back along the lower one.
    figure.add_scatter(
        x=np.concatenate([tokens, tokens[::-1]]), y=np.concatenate([band["high"], band["low"][::-1]]), mode="lines",
        fill="toself", fillcolor="rgba(138,143,152,0.25)", line={"width": 0}, name="10–90 % of trials",
        hoverinfo="skip",
    )  # fmt: skip


def _add_main_curve(
    figure: go.Figure, curve: pd.DataFrame, name: str, legend_name: str, colour: str, dash: str
) -> None:
    figure.add_scatter(
        x=curve["tokens_seen"].to_numpy(), y=_finite_losses(curve), mode="lines",
        name=legend_name, showlegend=True, opacity=1, line={"color": colour, "dash": dash, "width": 2.5},
        hovertemplate=_curve_hover(name),
    )  # fmt: skip


def _add_faint_curve(figure: go.Figure, curve: pd.DataFrame, name: str) -> None:
    figure.add_scatter(
        x=curve["tokens_seen"].to_numpy(), y=_finite_losses(curve), mode="lines",
        name=name, showlegend=False, opacity=0.4, line={"color": BLUE, "dash": "solid", "width": 1},
        hovertemplate=_curve_hover(name),
    )  # fmt: skip


def _finite_losses(curve: pd.DataFrame) -> np.ndarray:
    """Return a curve's losses with gaps where they are not finite."""
    losses = curve["val_loss"].to_numpy(dtype=float)
    return np.where(np.isfinite(losses), losses, np.nan)


def _curve_hover(name: str) -> str:
    return f"{name}: %{{y:.4f}} at %{{x:,}} tokens<extra></extra>"


def _range_after_the_start(band: pd.DataFrame, trials: pd.DataFrame) -> list[float]:
    """Return the losses shown; the first evaluations, before much was learned, would flatten the rest."""
    shown = band.iloc[max(1, len(band) // 10) :]
    low = float(np.nanmin([shown["low"].min(), trials["loss"].min()]))
    high = float(shown["high"].max())
    margin = 0.05 * (high - low)
    return [low - margin, high + margin]


def pruning_audit(audit: PruningAudit) -> go.Figure:
    """Draw the loss at the first rung against the final loss.

    Args:
        audit: As `reports.tables.pruning.pruning_audit` gives it.
    """
    figure = base_figure(f"loss at {audit.rung_words}", "final loss (nats per token)")
    table = audit.table

    early, final = (Scale.of(table[name]) for name in ("rung_loss", "final_loss"))
    figure.add_scatter(
        x=early.place(table["rung_loss"]), y=final.place(table["final_loss"]), mode="markers", showlegend=False,
        customdata=table[["rung_loss", "final_loss"]].to_numpy(), cliponaxis=False,
        text=[f"trial {number}" for number in table["number"]],
        hovertemplate="%{text}: %{customdata[0]:.4f} → %{customdata[1]:.4f}<extra></extra>",
        marker={"color": BLUE, "size": 9},
    )  # fmt: skip
    figure.update_xaxes(range=[early.low, early.high])
    figure.update_yaxes(range=[final.low, final.high])
    figure.add_vline(x=float(table["rung_loss"].median()), line={"color": GREY, "dash": "dot"})
    figure.update_layout(margin={"t": 20})
    return figure
