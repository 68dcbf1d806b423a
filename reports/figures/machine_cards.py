"""Figure cards about the machine: when each trial ran, the GPU's health, the full run."""

from __future__ import annotations

import pandas as pd

from reports.figures import machine
from reports.figures.figure_cards import Drawn, NothingToDrawError, require
from reports.figures.study_tables import StudyTables
from reports.formats import percent, plain
from reports.sentences.full_run import full_run_lines
from reports.tables.curves import curves_table
from reports.tables.in_metric import in_metric
from reports.tables.machine import gpu_table, run_times


def timeline(study: StudyTables) -> Drawn:
    """Return what the card of the night shows.

    Args:
        study: Its tables.
    """
    rows = run_times(study.record)
    require(len(rows) > 0, "no start times were stored")
    sentence = "When each trial ran, in this computer's time of day; a gap means that nothing was training."
    return sentence, [machine.timeline(rows)], rows


def gpu(study: StudyTables) -> Drawn:
    """Return what the card of the GPU's health shows.

    Args:
        study: Its tables.
    """
    samples = gpu_table(study.record)
    require(len(samples) > 0, "no samples of a GPU were stored")

    searched = run_times(study.record).query("lane == 'search'")
    speeds = searched.merge(study.trials[["number", "tokens_per_s"]])
    speeds = speeds[speeds["tokens_per_s"].notna()]

    sentence = (
        "Temperature, power and clock of the GPU, and training speed. Red stretches: heat or power supply slowed it "
        f"({percent(float(samples['throttled'].mean()))} of the samples)."
    )
    return sentence, [machine.gpu_health(samples, speeds, study.metric.budget_unit)], _extremes(samples)


def _extremes(samples: pd.DataFrame) -> pd.DataFrame:
    """Return least, mean and greatest of what the card reports; no columns where it reports nothing."""
    reported = [name for name in ("temperature_c", "power_w", "sm_clock_hz") if samples[name].notna().any()]
    if not reported:
        return samples[[]]
    return samples[reported].agg(["min", "mean", "max"]).rename_axis("of all samples").reset_index()


def full_run(study: StudyTables) -> Drawn:
    """Return what the card of the full run shows.

    Args:
        study: Its tables.
    """
    record = study.record
    run = record.attributes.full_run
    if run is None or not run.points:
        raise NothingToDrawError("the full run has not been evaluated yet")

    points = [point.to_json() for point in run.points]
    curve = curves_table(trial for trial in record.trials if trial.number == run.trial)

    metric = study.metric
    sentence = f"The {plain(metric.name)} of the full run as it trained, beside the short trial that it grew from. "
    sentence += full_run_lines(record)[0]
    return sentence, [machine.full_run(points, curve, metric)], in_metric(pd.DataFrame(points), metric)
