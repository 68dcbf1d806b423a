"""Plotly figures of the losses of a study, from its tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from autotune.core.statistics import INTERVAL
from reports.figures.style import BLUE, GREEN, GREY, ORANGE, STATUS_STYLE, base_figure
from reports.tables.curves import curve_band
from reports.tables.pruning import PruningAudit
from reports.tables.trials import best_so_far_table

# Trials whose curves are drawn.
BEST_CURVES = 20
# Losses above the worst finished one by more than this share of the finished ones' spread are drawn at the upper edge.
_HEADROOM_FRAC = 0.35


def best_so_far(trials: pd.DataFrame, baseline: float | None, sigma: float | None) -> go.Figure:
    """Draw every trial by its status, the best so far, and the default with its noise.

    Args:
        trials: As `reports.tables.trials.trials_table` gives it.
        baseline: The default's loss in nats per token, or None.
        sigma: Standard deviation between seeds in nats per token, or None.
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
    figure.update_yaxes(range=[low, high])
    return figure


def _visible_range(trials: pd.DataFrame, baseline: float | None) -> tuple[float, float]:
    """Return the losses that are drawn to scale; a diverged trial must not crush all others."""
    losses = list(trials["loss"].dropna())
    if baseline is not None:
        losses.append(baseline)
    if not losses:
        losses = list(trials["last_loss"].dropna()) or [0.0, 1.0]

    low = min(losses)
    high = max(losses)
    spread = max(high - low, 0.01 * abs(high), 1e-9)

    return low - 0.08 * spread, high + _HEADROOM_FRAC * spread


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


def finals(runs: pd.DataFrame, arms: pd.DataFrame) -> go.Figure:
    """Draw each arm's runs, its mean and its 95 % interval.

    Args:
        runs: As `reports.tables.finals.finals_runs` gives it.
        arms: As `reports.tables.finals.finals_table` gives it.
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
    figure.update_yaxes(autorange="reversed", type="category", categoryorder="array", categoryarray=order)
    figure.update_layout(margin={"l": 96})
    return figure


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


def learning_curves(curves: pd.DataFrame, trials: pd.DataFrame, baseline: int | None) -> go.Figure:
    """Draw the 10-90 % band of all trials, the best 20 and the default.

    Args:
        curves: As `reports.tables.curves.curves_table` gives it for the search.
        trials: As `reports.tables.trials.trials_table` gives it.
        baseline: The default's trial number, or None.
    """
    figure = base_figure("training tokens seen", "loss (nats per token)")
    band = curve_band(curves)
    _add_band(figure, band)

    best_numbers = list(trials.nsmallest(BEST_CURVES, "loss")["number"])
    for number in best_numbers:
        curve = curves[curves["number"] == number]
        if number == baseline:
            continue
        if number == best_numbers[0]:
            _add_main_curve(figure, curve, f"trial {number}", f"best (trial {number})", BLUE, "solid")
        else:
            _add_faint_curve(figure, curve, f"trial {number}")

    default = curves[curves["number"] == baseline]
    if len(default):
        _add_main_curve(figure, default, "default", "default", ORANGE, "dash")

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

    figure.add_scatter(
        x=table["rung_loss"].to_numpy(), y=table["final_loss"].to_numpy(), mode="markers", showlegend=False,
        text=[f"trial {number}" for number in table["number"]],
        hovertemplate="%{text}: %{x:.4f} → %{y:.4f}<extra></extra>", marker={"color": BLUE, "size": 9},
    )  # fmt: skip
    figure.add_vline(x=float(table["rung_loss"].median()), line={"color": GREY, "dash": "dot"})
    figure.update_layout(margin={"t": 20})
    return figure
