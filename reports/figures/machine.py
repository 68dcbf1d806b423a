"""Plotly figures of the machine: the night's timeline, the GPU's health, the full run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from reports.figures.losses import BLUE, GREEN, ORANGE, STATUS_STYLE, VERMILLION, base_figure
from reports.formats import finite
from reports.tables import MAX_SAMPLE_GAP_S

PATTERNS = {"pruned": "/", "diverged": "x", "out of memory": "\\", "crashed": "+", "interrupted": "."}
# Samples drawn: a night of one every five seconds is averaged down to this many.
MAX_GPU_POINTS = 600
GPU_ROWS = (
    ("temperature_c", "temperature (°C)", 1.0, VERMILLION),
    ("power_w", "power (W)", 1.0, ORANGE),
    ("sm_clock_hz", "clock (GHz)", 1e-9, BLUE),
)


def timeline(rows: pd.DataFrame) -> go.Figure:
    """Draws when each trial ran.

    Args:
        rows: As `reports.tables.timeline` gives it.
    """
    lanes = list(dict.fromkeys(rows["lane"]))
    figure = base_figure("time of day", "", height=150 + 56 * len(lanes))
    for status, group in rows.groupby("status", sort=False):
        colour = STATUS_STYLE[str(status)][0]
        figure.add_bar(
            base=[start.isoformat() for start in group["start"]], x=(group["seconds"] * 1000).to_numpy(),
            y=list(group["lane"]), orientation="h", name=str(status), width=0.7,
            text=[f"{lane} {number}, {status}, {seconds / 60:.1f} min" for lane, number, seconds in
                  zip(group["lane"], group["number"], group["seconds"], strict=True)],
            hovertemplate="%{text}<extra></extra>", textposition="none",
            marker={"color": colour, "line": {"width": 0.5, "color": "white"},
                    "pattern": {"shape": PATTERNS.get(str(status), ""), "solidity": 0.3, "fillmode": "overlay"}},
        )  # fmt: skip
    figure.update_layout(barmode="overlay", margin={"l": 82, "b": 72})
    figure.update_xaxes(type="date")
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def thinned(gpu: pd.DataFrame, points: int = MAX_GPU_POINTS) -> pd.DataFrame:
    """Returns the samples averaged down to at most so many; throttled is true where any of the averaged was.

    Args:
        gpu: As `reports.tables.gpu_table` gives it.
        points: Rows at most, >= 1.
    """
    bucket = np.arange(len(gpu)) * points // max(len(gpu), points)
    how = {"time": "first", "temperature_c": "mean", "power_w": "mean", "sm_clock_hz": "mean", "throttled": "max"}
    return gpu.groupby(bucket).agg(how).reset_index(drop=True)


def throttled_spans(gpu: pd.DataFrame) -> list[tuple[float, float]]:
    """Returns the stretches in which heat or power supply slowed the GPU, as Unix seconds.

    Args:
        gpu: As `reports.tables.gpu_table` gives it.
    """
    spans = []
    start = None
    times = [*gpu["time"]]
    for place, throttled in enumerate(gpu["throttled"]):
        if throttled and start is None:
            start = times[place]
        if not throttled and start is not None:
            spans.append((start, times[place]))
            start = None
    return [*spans, (start, times[-1])] if start is not None else spans


def gpu_health(gpu: pd.DataFrame, speeds: pd.DataFrame) -> go.Figure:
    """Draws temperature, power, clock and training speed through the night, throttling shaded.

    Args:
        gpu: As `reports.tables.gpu_table` gives it, not empty.
        speeds: Columns start (local time) and tokens_per_s, a row per trial; may be empty.
    """
    thin = thinned(gpu)
    when = [_local(seconds) for seconds in thin["time"]]
    # Between two sessions nothing is known: the line breaks there.
    gap = thin["time"].diff() > max(MAX_SAMPLE_GAP_S, 5 * thin["time"].diff().median())
    rows: list[tuple[Any, Any, str, str]] = [
        (when, (thin[name] * scale).mask(gap).to_numpy(dtype=float), title, colour)
        for name, title, scale, colour in GPU_ROWS
        if thin[name].notna().any()
    ]
    if len(speeds):
        starts = [start.isoformat() for start in speeds["start"]]
        rows.append((starts, speeds["tokens_per_s"].to_numpy(), "tokens per s", GREEN))
    figure = base_figure("", "", height=120 * max(1, len(rows)) + 60)
    for place, (x, y, title, colour) in enumerate(rows):
        _gpu_row(figure, place, len(rows), x, y, title, colour)
    for low, high in throttled_spans(thin):
        figure.add_shape(
            type="rect", xref="x", yref="paper", x0=_local(low), x1=_local(high), y0=0, y1=1, layer="below",
            fillcolor=VERMILLION, opacity=0.2, line={"width": 0},
        )  # fmt: skip
    figure.update_layout(showlegend=False, margin={"t": 28, "b": 72})
    return figure


def _gpu_row(figure: go.Figure, place: int, rows: int, x: Any, y: Any, title: str, colour: str) -> None:
    axis = f"y{place + 1}" if place else "y"
    top = 1 - place / rows
    mode = "markers" if title == "tokens per s" else "lines"
    figure.add_scatter(
        x=x, y=y, yaxis=axis, name=title, mode=mode, line={"color": colour, "width": 1.5},
        hovertemplate=f"{title}: %{{y:.4g}}<extra></extra>",
    )  # fmt: skip
    key = f"yaxis{place + 1}" if place else "yaxis"
    figure.update_layout(
        {key: {"domain": [top - 0.74 / rows, top], "automargin": True, "zeroline": False, "nticks": 4}}
    )
    figure.add_annotation(
        text=f"<b>{title}</b>", x=0, y=top, xref="paper", yref="paper", xanchor="left", yanchor="bottom",
        showarrow=False,
    )  # fmt: skip
    # Every row shares the one time axis, which is drawn below the last of them.
    figure.update_xaxes(type="date", anchor="free", position=0)


def _local(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(timespec="seconds")


def full_run(points: Sequence[Mapping[str, Any]], trial_curve: pd.DataFrame) -> go.Figure:
    """Draws the full run's loss beside that of the trial which it grew from.

    Args:
        points: Evaluations as `EvalPoint.to_json` gives them.
        trial_curve: Columns tokens_seen and val_loss of that trial; may be empty.
    """
    figure = base_figure("training tokens seen", "loss (nats per token)")
    pairs = [(finite(point.get("tokens_seen")), finite(point.get("val_loss"))) for point in points]
    known = [(seen, loss) for seen, loss in pairs if seen is not None and loss is not None]
    figure.add_scatter(
        x=[seen for seen, _ in known], y=[loss for _, loss in known], mode="lines+markers", name="full run",
        line={"color": BLUE, "width": 2.5}, hovertemplate="%{y:.4f} at %{x:,} tokens<extra></extra>",
    )  # fmt: skip
    if len(trial_curve):
        figure.add_scatter(
            x=trial_curve["tokens_seen"].to_numpy(), y=trial_curve["val_loss"].to_numpy(dtype=float), mode="lines",
            name="its trial in the search", line={"color": ORANGE, "dash": "dash", "width": 2},
        )  # fmt: skip
    return figure
