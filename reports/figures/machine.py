"""Plotly figures of the machine: the night's timeline, the GPU's health, the full run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from autotune.core.metric import TEXT_LOSS, Metric
from reports.figures.scale import digits, drawn
from reports.figures.style import BLUE, GREEN, ORANGE, STATUS_STYLE, VERMILLION, base_figure
from reports.formats import finite, label
from reports.tables.machine import MAX_SAMPLE_GAP_S

# Pattern of a trial's bar by its status.
_PATTERNS = {"pruned": "/", "diverged": "x", "out of memory": "\\", "crashed": "+", "interrupted": "."}
# Samples drawn: a night of one every five seconds is averaged down to this many.
_MAX_GPU_POINTS = 600
# Column, title, factor of its unit, and colour of each row of the GPU's figure.
_GPU_ROWS = (
    ("temperature_c", "temperature (°C)", 1.0, VERMILLION),
    ("power_w", "power (W)", 1.0, ORANGE),
    ("sm_clock_hz", "clock (GHz)", 1e-9, BLUE),
)


def timeline(rows: pd.DataFrame) -> go.Figure:
    """Draw when each trial ran.

    Args:
        rows: As `reports.tables.machine.run_times` gives it.
    """
    lanes = rows["lane"].unique()
    figure = base_figure("time of day", "", height=150 + 56 * len(lanes))

    for status, group in rows.groupby("status", sort=False):
        _add_bars(figure, str(status), group)

    figure.update_layout(barmode="overlay", margin={"l": 82, "b": 72})
    # Words beside one another, on a phone too, where plotly would turn them upright.
    figure.update_xaxes(type="date", nticks=5, tickangle=0)
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def _add_bars(figure: go.Figure, status: str, group: pd.DataFrame) -> None:
    colour, _ = STATUS_STYLE[status]
    pattern = {"shape": _PATTERNS.get(status, ""), "solidity": 0.3, "fillmode": "overlay"}

    texts = []
    for lane, number, seconds in zip(group["lane"], group["number"], group["seconds"], strict=True):
        texts.append(f"{lane} {number}, {status}, {seconds / 60:.1f} min")

    # On an axis of dates the length of a bar is in milliseconds.
    figure.add_bar(
        base=[start.isoformat() for start in group["start"]], x=(group["seconds"] * 1000).to_numpy(),
        y=list(group["lane"]), orientation="h", name=status, width=0.7,
        text=texts, hovertemplate="%{text}<extra></extra>", textposition="none",
        marker={"color": colour, "line": {"width": 0.5, "color": "white"}, "pattern": pattern},
    )  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """One of the rows that share the time axis of the GPU's figure.

    Args:
        times: Local times, in ISO format.
        values: NaN breaks the line.
        title: With its unit.
        colour: Of its line.
        mode: "lines" or "markers".
    """

    times: list[str]
    values: np.ndarray
    title: str
    colour: str
    mode: str = "lines"


def gpu_health(gpu: pd.DataFrame, speeds: pd.DataFrame, unit: str = "tokens") -> go.Figure:
    """Draw temperature, power, clock and training speed through the night, throttling shaded.

    Args:
        gpu: As `reports.tables.machine.gpu_table` gives it, not empty.
        speeds: Columns start (local time) and tokens_per_s, a row per trial; may be empty.
        unit: What is counted of a training.
    """
    samples = _thinned(gpu)
    rows = _gpu_rows(samples)
    if len(speeds):
        starts = [start.isoformat() for start in speeds["start"]]
        rows.append(_Row(starts, speeds["tokens_per_s"].to_numpy(), f"{label(unit)} per s", GREEN, "markers"))

    figure = base_figure("", "", height=120 * max(1, len(rows)) + 60)
    for place, row in enumerate(rows):
        _add_row(figure, row, place, len(rows))

    for start_s, end_s in _throttled_spans(samples):
        figure.add_shape(
            type="rect", xref="x", yref="paper", x0=_local_time(start_s), x1=_local_time(end_s), y0=0, y1=1,
            layer="below", fillcolor=VERMILLION, opacity=0.2, line={"width": 0},
        )  # fmt: skip
    figure.update_layout(showlegend=False, margin={"t": 28, "b": 72})
    return figure


def _thinned(gpu: pd.DataFrame) -> pd.DataFrame:
    """Return the samples averaged down to few enough; throttled is true where any of the averaged was."""
    bucket = np.arange(len(gpu)) * _MAX_GPU_POINTS // max(len(gpu), _MAX_GPU_POINTS)
    how = {"time": "first", "temperature_c": "mean", "power_w": "mean", "sm_clock_hz": "mean", "throttled": "max"}
    return gpu.groupby(bucket).agg(how).reset_index(drop=True)


def _gpu_rows(samples: pd.DataFrame) -> list[_Row]:
    """Return the rows of what the card reports."""
    times = [_local_time(seconds) for seconds in samples["time"]]

    # Between two sessions nothing is known: the line breaks there.
    pause_s = samples["time"].diff()
    is_after_gap = pause_s > max(MAX_SAMPLE_GAP_S, 5 * pause_s.median())

    rows = []
    for column, title, factor, colour in _GPU_ROWS:
        if samples[column].notna().any():
            values = (samples[column] * factor).mask(is_after_gap).to_numpy(dtype=float)
            rows.append(_Row(times, values, title, colour))

    return rows


def _throttled_spans(samples: pd.DataFrame) -> list[tuple[float, float]]:
    """Return the stretches in which heat or power supply slowed the GPU, as Unix seconds."""
    spans = []
    start_s = None

    for time_s, throttled in zip(samples["time"], samples["throttled"], strict=True):
        if throttled and start_s is None:
            start_s = time_s
        if not throttled and start_s is not None:
            spans.append((start_s, time_s))
            start_s = None

    if start_s is not None:
        spans.append((start_s, samples["time"].iloc[-1]))

    return spans


def _add_row(figure: go.Figure, row: _Row, place: int, count: int) -> None:
    # Plotly's first axis has no number.
    axis_number = str(place + 1) if place else ""
    top = 1 - place / count

    figure.add_scatter(
        x=row.times, y=row.values, yaxis=f"y{axis_number}", name=row.title, mode=row.mode,
        line={"color": row.colour, "width": 1.5}, hovertemplate=f"{row.title}: %{{y:.4g}}<extra></extra>",
    )  # fmt: skip

    axis = {"domain": [top - 0.74 / count, top], "automargin": True, "zeroline": False, "nticks": 4}
    figure.update_layout({f"yaxis{axis_number}": axis})
    figure.add_annotation(
        text=f"<b>{row.title}</b>", x=0, y=top, xref="paper", yref="paper", xanchor="left", yanchor="bottom",
        showarrow=False,
    )  # fmt: skip

    # Every row shares the one time axis, which is drawn below the last of them.
    figure.update_xaxes(type="date", anchor="free", position=0)


def _local_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(timespec="seconds")


def full_run(points: Sequence[Mapping[str, Any]], trial_curve: pd.DataFrame, metric: Metric = TEXT_LOSS) -> go.Figure:
    """Draw the full run's evaluations beside those of the trial which it grew from.

    Args:
        points: Evaluations as `EvalPoint.to_json` gives them.
        trial_curve: Columns tokens_seen and val_loss of that trial; may be empty.
        metric: What trials report.
    """
    unit = label(metric.budget_unit)
    figure = base_figure(f"training {unit} seen", label(metric.title))

    seen_tokens = []
    losses = []
    for point in points:
        seen = finite(point.get("tokens_seen"))
        loss = finite(point.get("val_loss"))
        if seen is not None and loss is not None:
            seen_tokens.append(seen)
            losses.append(loss)

    figure.add_scatter(
        x=seen_tokens, y=drawn(losses, metric), mode="lines+markers", name="full run",
        line={"color": BLUE, "width": 2.5},
        hovertemplate=f"%{{y:{digits(metric)}}} at %{{x:,}} {unit}<extra></extra>",
    )  # fmt: skip

    if len(trial_curve):
        figure.add_scatter(
            x=trial_curve["tokens_seen"].to_numpy(), y=drawn(trial_curve["val_loss"].astype(float), metric),
            mode="lines", name="its trial in the search", line={"color": ORANGE, "dash": "dash", "width": 2},
        )  # fmt: skip
    return figure
