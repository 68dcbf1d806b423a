"""Plotly figures of the losses of a study, from its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from autotune.core.metric import TEXT_LOSS, Metric
from autotune.core.statistics import INTERVAL
from reports.figures.scale import Scale, digits, drawn
from reports.figures.style import BLUE, GREEN, GREY, ORANGE, STATUS_STYLE, add_rings, base_figure, ring_of
from reports.formats import label
from reports.tables.curves import curve_band
from reports.tables.pruning import PruningAudit
from reports.tables.roles import PROMOTED, WINNER
from reports.tables.trials import best_so_far_table

# Trials whose curves are drawn.
BEST_CURVES = 20
# Losses above the worst finished one by more than this share of the finished ones' spread are drawn at the top.
_HEADROOM_FRAC = 0.25


def best_so_far(
    trials: pd.DataFrame,
    baseline: float | None,
    sigma: float | None,
    names: Mapping[int, str] | None = None,
    metric: Metric = TEXT_LOSS,
) -> go.Figure:
    """Draw every trial by its status, the best so far, the default with its noise, and which trials matter.

    Args:
        trials: As `reports.tables.trials.trials_table` gives it.
        baseline: The default's loss in nats per token, or None.
        sigma: Standard deviation between seeds in nats per token, or None.
        names: What the trials that matter are called, by number.
        metric: What trials report.
    """
    figure = base_figure("trial", label(metric.title))
    scale = _visible_range(trials, baseline, metric)

    if baseline is not None:
        _add_baseline(figure, metric.value(baseline), sigma)

    known = trials[trials["status"].isin(list(STATUS_STYLE))]
    for status, group in known.groupby("status", sort=False):
        _add_trials(figure, str(status), group, scale)

    best = best_so_far_table(trials)
    figure.add_scatter(
        x=best["number"].to_numpy(), y=drawn(best["best"], metric), mode="lines", name="best so far",
        line={"color": GREEN, "width": 2.5, "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    done = trials[trials["loss"].notna()]
    places = zip(done["number"], scale.place(done["loss"]), strict=True)
    add_rings(figure, names or {}, {int(number): (number, value) for number, value in places})
    figure.update_yaxes(range=scale.range)
    return figure


def _visible_range(trials: pd.DataFrame, baseline: float | None, metric: Metric) -> Scale:
    """Return the losses that are drawn to scale; a diverged trial, or a very poor one, must not crush all others."""
    keep = [] if baseline is None else [baseline]
    losses = list(trials["loss"].dropna())
    if not losses and not keep:
        losses = list(trials["last_loss"].dropna())

    scale = Scale.of(losses, keep, metric)
    return replace(scale, high=scale.high + _HEADROOM_FRAC * (scale.high - scale.low))


def has_marks_off_the_scale(trials: pd.DataFrame, baseline: float | None) -> bool:
    """Return whether `best_so_far` draws marks at the end of its axis: of poor trials, or of those without a value."""
    ends = trials["loss"].fillna(trials["last_loss"])[trials["status"].isin(list(STATUS_STYLE))]
    return bool((ends.isna() | (ends > _visible_range(trials, baseline, TEXT_LOSS).high)).any())


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


def _add_trials(figure: go.Figure, status: str, group: pd.DataFrame, scale: Scale) -> None:
    colour, symbol = STATUS_STYLE[status]
    outline = 1.5 if "open" in symbol else 0
    metric = scale.metric
    losses = group["loss"].fillna(group["last_loss"])

    texts = []
    for number, loss in zip(group["number"], losses, strict=True):
        known = f"no {metric.name}" if np.isnan(loss) else metric.words(loss)
        texts.append(f"trial {number}: {status}, {label(known)}")

    figure.add_scatter(
        x=group["number"].to_numpy(), y=scale.place(losses.fillna(scale.high)), mode="markers", name=status,
        text=texts, hovertemplate="%{text}<extra></extra>", cliponaxis=False,
        marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": outline}},
    )  # fmt: skip


def finals(
    runs: pd.DataFrame, arms: pd.DataFrame, names: Mapping[int, str] | None = None, metric: Metric = TEXT_LOSS
) -> go.Figure:
    """Draw each arm's runs, its mean and its 95 % interval; a bar may go on beyond the scale of the runs.

    Args:
        runs: As `reports.tables.finals.finals_runs` gives it.
        arms: As `reports.tables.finals.finals_table` gives it.
        names: What the trials that matter are called, by number.
        metric: What trials report.
    """
    figure = base_figure(label(metric.title), "", height=140 + 64 * len(arms))

    has_chosen = runs["stage"] == "select"
    _add_final_runs(figure, runs[has_chosen], ("circle-open", "chose the winner"), metric)
    _add_final_runs(figure, runs[~has_chosen], ("circle", "fresh seeds"), metric)

    is_default = arms["arm_name"] == "default"
    means = [
        (arms[is_default], ORANGE, f"default: mean, {INTERVAL}"),
        (arms[~is_default], BLUE, f"finalist: mean, {INTERVAL}"),
    ]
    for group, colour, name in means:
        _add_means(figure, group, (colour, name), metric)

    order = list(arms["arm_name"])
    labels = [_arm_label(arm, name, names or {}) for arm, name in zip(arms["arm"], order, strict=True)]
    figure.update_yaxes(autorange="reversed", type="category", categoryorder="array", categoryarray=order)
    figure.update_yaxes(tickvals=order, ticktext=labels)
    figure.update_xaxes(range=sorted(metric.values(_range_of_runs(runs, arms))))
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
    room = max(high - low, 0.001 * abs(high)) or 1e-9
    ends = [end for end in (*arms["low"], *arms["high"]) if math.isfinite(end)]

    lowest = max(min([low, *ends]), low - room)
    highest = min(max([high, *ends]), high + room)
    margin = 0.06 * (highest - lowest)
    return [lowest - margin, highest + margin]


def _add_final_runs(figure: go.Figure, runs: pd.DataFrame, style: tuple[str, str], metric: Metric) -> None:
    if not len(runs):
        return

    symbol, name = style
    texts = [f"seed {seed}: {metric.number(loss)}" for seed, loss in zip(runs["seed"], runs["loss"], strict=True)]
    figure.add_scatter(
        x=drawn(runs["loss"], metric), y=list(runs["arm_name"]), mode="markers", name=name,
        text=texts, hovertemplate="%{text}<extra></extra>", marker={"color": GREY, "symbol": symbol, "size": 9},
    )  # fmt: skip


def _add_means(figure: go.Figure, arms: pd.DataFrame, style: tuple[str, str], metric: Metric) -> None:
    if not len(arms):
        return

    colour, name = style
    half_widths = (arms["high"] - arms["mean"]).fillna(0).to_numpy()
    figure.add_scatter(
        x=drawn(arms["mean"], metric), y=list(arms["arm_name"]), mode="markers", name=name,
        error_x={"type": "data", "array": half_widths, "thickness": 3, "width": 8, "color": colour},
        marker={"color": colour, "symbol": "diamond", "size": 13},
        hovertemplate=f"mean %{{x:{digits(metric)}}}<extra></extra>",
    )  # fmt: skip


def learning_curves(
    curves: pd.DataFrame,
    trials: pd.DataFrame,
    baseline: int | None,
    names: Mapping[int, str] | None = None,
    metric: Metric = TEXT_LOSS,
) -> go.Figure:
    """Draw the 10-90 % band of all trials, the best 20, the default, and those that matter.

    Args:
        curves: As `reports.tables.curves.curves_table` gives it for the search.
        trials: As `reports.tables.trials.trials_table` gives it.
        baseline: The default's trial number, or None.
        names: What the trials that matter are called, by number.
        metric: What trials report.
    """
    names = names or {}
    figure = base_figure(f"training {label(metric.budget_unit)} seen", label(metric.title))
    band = curve_band(curves)
    _add_band(figure, band, metric)

    best_numbers = list(trials.nsmallest(BEST_CURVES, "loss")["number"])
    for number in best_numbers:
        curve = curves[curves["number"] == number]
        if number == baseline:
            continue
        if number not in names:
            _add_faint_curve(figure, curve, f"trial {number}", metric)

    for number, name in names.items():
        curve = curves[curves["number"] == number]
        if number != baseline and len(curve):
            colour, _ = ring_of(name)
            style = (f"{name} (trial {number})", colour, "solid")
            _add_main_curve(figure, curve, f"trial {number}", style, metric)

    default = curves[curves["number"] == baseline]
    if len(default):
        _add_main_curve(figure, default, "default", (names.get(baseline or 0, "default"), ORANGE, "dash"), metric)

    if len(band) > 1:
        named = trials["number"].isin([*names, baseline])
        figure.update_yaxes(range=sorted(metric.values(_range_after_the_start(band, trials["loss"], named))))
    return figure


def _add_band(figure: go.Figure, band: pd.DataFrame, metric: Metric) -> None:
    tokens = band["tokens_seen"].to_numpy(dtype=float)

    # One closed line: along the upper edge, and back along the lower one.
    figure.add_scatter(
        x=np.concatenate([tokens, tokens[::-1]]), y=drawn([*band["high"], *band["low"][::-1]], metric), mode="lines",
        fill="toself", fillcolor="rgba(138,143,152,0.25)", line={"width": 0}, name="10–90 % of trials",
        hoverinfo="skip",
    )  # fmt: skip


def _add_main_curve(
    figure: go.Figure, curve: pd.DataFrame, name: str, style: tuple[str, str, str], metric: Metric
) -> None:
    legend_name, colour, dash = style
    figure.add_scatter(
        x=curve["tokens_seen"].to_numpy(), y=_finite_values(curve, metric), mode="lines",
        name=legend_name, showlegend=True, opacity=1, line={"color": colour, "dash": dash, "width": 2.5},
        hovertemplate=_curve_hover(name, metric),
    )  # fmt: skip


def _add_faint_curve(figure: go.Figure, curve: pd.DataFrame, name: str, metric: Metric) -> None:
    figure.add_scatter(
        x=curve["tokens_seen"].to_numpy(), y=_finite_values(curve, metric), mode="lines",
        name=name, showlegend=False, opacity=0.4, line={"color": BLUE, "dash": "solid", "width": 1},
        hovertemplate=_curve_hover(name, metric),
    )  # fmt: skip


def _finite_values(curve: pd.DataFrame, metric: Metric) -> np.ndarray:
    """Return a curve's values with gaps where they are not finite."""
    values = drawn(curve["val_loss"].astype(float), metric)
    return np.where(np.isfinite(values), values, np.nan)


def _curve_hover(name: str, metric: Metric) -> str:
    return f"{name}: %{{y:{digits(metric)}}} at %{{x:,}} {label(metric.budget_unit)}<extra></extra>"


def _range_after_the_start(band: pd.DataFrame, ends: pd.Series[float], named: pd.Series[bool]) -> list[float]:
    """Return the losses shown; the first evaluations, before much was learned, would flatten the rest.

    Where a named trial ended is always shown.
    """
    shown = band.iloc[max(1, len(band) // 10) :]
    low = float(np.nanmin([shown["low"].min(), ends.min()]))
    high = float(np.nanmax([shown["high"].max(), ends[named].max()]))
    margin = 0.05 * (high - low)
    return [low - margin, high + margin]


def pruning_audit(audit: PruningAudit, metric: Metric = TEXT_LOSS) -> go.Figure:
    """Draw the loss at the first rung against the final loss.

    Args:
        audit: As `reports.tables.pruning.pruning_audit` gives it.
        metric: What trials report.
    """
    figure = base_figure(label(f"{metric.name} at {audit.rung_words(metric)}"), label(f"final {metric.title}"))
    table = audit.table

    early, final = (Scale.of(table[name], metric=metric) for name in ("rung_loss", "final_loss"))
    values = np.column_stack([drawn(table[name], metric) for name in ("rung_loss", "final_loss")])
    shown = digits(metric)
    figure.add_scatter(
        x=early.place(table["rung_loss"]), y=final.place(table["final_loss"]), mode="markers", showlegend=False,
        customdata=values, cliponaxis=False,
        text=[f"trial {number}" for number in table["number"]],
        hovertemplate=f"%{{text}}: %{{customdata[0]:{shown}}} → %{{customdata[1]:{shown}}}<extra></extra>",
        marker={"color": BLUE, "size": 9},
    )  # fmt: skip
    figure.update_xaxes(range=early.range)
    figure.update_yaxes(range=final.range)
    figure.add_vline(x=metric.value(float(table["rung_loss"].median())), line={"color": GREY, "dash": "dot"})
    figure.update_layout(margin={"t": 20})
    return figure
