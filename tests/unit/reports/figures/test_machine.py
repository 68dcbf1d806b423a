from datetime import datetime

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import study_builder

from autotune.store.study_record import StudyRecord
from reports.figures import machine
from reports.tables.machine import gpu_table, run_times


def local(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat()


def shaded(figure: go.Figure) -> list[tuple[str, str]]:
    return [(shape.x0, shape.x1) for shape in figure.layout.shapes]


def test_timeline_bars_carry_colour_and_pattern(night: StudyRecord) -> None:
    drawn = {trace.name: trace for trace in machine.timeline(run_times(night)).data}

    assert set(drawn) == {"finished", "pruned", "diverged", "out of memory", "crashed", "interrupted"}
    assert drawn["pruned"].marker.pattern.shape == "/" and list(drawn["pruned"].x) == [50_000.0, 50_000.0]
    assert list(drawn["finished"].y).count("finals") == 8


def test_gpu_health_draws_known_rows_and_shades_throttling(night: StudyRecord) -> None:
    gpu = gpu_table(night)
    speeds = pd.DataFrame({"start": [run_times(night).at[0, "start"]], "tokens_per_s": [10.0]})
    figure = machine.gpu_health(gpu, speeds)

    assert [trace.name for trace in figure.data] == ["temperature (°C)", "power (W)", "clock (GHz)", "tokens per s"]
    assert figure.data[2].y[0] == pytest.approx(1.5)
    assert np.isnan(figure.data[1].y[5]), "the line breaks at the gap between two sessions"
    assert len([shape for shape in figure.layout.shapes if shape.type == "rect"]) == 1


def test_gpu_rows_that_no_card_reports_are_left_out() -> None:
    samples = tuple({"time": float(place), "power_w": 70.0} for place in range(3))
    figure = machine.gpu_health(gpu_table(study_builder.study(gpu=samples)), pd.DataFrame())

    assert [trace.name for trace in figure.data] == ["power (W)"]


def test_a_long_night_is_thinned_without_losing_a_throttled_moment() -> None:
    gpu = pd.DataFrame({
        "time": np.arange(7200.0), "temperature_c": 70.0, "power_w": np.arange(7200.0), "sm_clock_hz": 1e9,
        "throttled": np.arange(7200) == 4321,
    })  # fmt: skip
    figure = machine.gpu_health(gpu, pd.DataFrame())
    power = figure.data[1]

    assert len(power.x) == 600
    assert power.y[0] == pytest.approx(np.arange(12).mean())
    assert shaded(figure) == [(local(4320), local(4332))]


def test_throttling_to_the_end_is_a_span() -> None:
    gpu = pd.DataFrame({
        "time": [0.0, 1.0, 2.0], "temperature_c": 70.0, "power_w": 70.0, "sm_clock_hz": 1e9,
        "throttled": [False, True, True],
    })  # fmt: skip

    assert shaded(machine.gpu_health(gpu, pd.DataFrame())) == [(local(1), local(2))]


def test_full_run_beside_its_trial() -> None:
    points = [{"tokens_seen": 1000, "val_loss": 5.0}, {"tokens_seen": 2000, "val_loss": None}]
    figure = machine.full_run(points, pd.DataFrame({"tokens_seen": [250], "val_loss": [6.0]}))

    assert list(figure.data[0].x) == [1000.0] and list(figure.data[1].y) == [6.0]
