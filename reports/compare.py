"""Several studies side by side, refused where their numbers do not mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from autotune.core.config_paths import flatten
from autotune.core.errors import UserError
from autotune.core.files import write_text
from autotune.core.metric import Metric
from autotune.core.statistics import INTERVAL
from autotune.promotion.selection import best_settings
from autotune.store.study_record import StudyRecord
from reports.figures.figure_cards import Drawn, draw_card, require
from reports.figures.scale import digits, drawn
from reports.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, base_figure
from reports.formats import duration, finite, label, plain, setting
from reports.page import render, writable
from reports.sentences.study_row import StudyRow, name_of_metrics, names_of_further, study_row
from reports.tables.comparable import data_hash, what_must_match
from reports.tables.finals import baseline_loss
from reports.tables.in_metric import in_metric
from reports.tables.trials import trials_table

# Colour and dash of each study's line, oldest first; further ones are grey and dotted.
_LINES = (
    (BLUE, "solid"), (ORANGE, "dash"), (GREEN, "dot"), (VERMILLION, "dashdot"), (PURPLE, "longdash"), (SKY, "solid"),
)  # fmt: skip
_FURTHER_LINES = (GREY, "dot")


def compare_table(records: Sequence[StudyRecord]) -> list[StudyRow]:
    """Return a row per study, oldest first.

    Args:
        records: Two studies or more.

    Raises:
        UserError: If there are fewer than two, or they differ in data, budget or evaluation.
    """
    _require_comparable(records)
    return [study_row(record) for record in _oldest_first(records)]


def _oldest_first(records: Sequence[StudyRecord]) -> list[StudyRecord]:
    return sorted(records, key=lambda record: record.created_at)


def _require_comparable(records: Sequence[StudyRecord]) -> None:
    """Refuse studies whose results do not mean the same, naming each difference and its values."""
    if len(records) < 2:
        raise UserError(f"a comparison needs two studies, and there is {len(records)}; name another")

    differences = []
    for name, read in what_must_match().items():
        values = [read(record) for record in records]
        if len(set(map(str, values))) > 1:
            named = zip(records, values, strict=True)
            listed = ", ".join(f"{record.name}: {_shown(value)}" for record, value in named)
            differences.append(f"  {name} differs ({listed})")

    if differences:
        lines = "\n".join(differences)
        raise UserError(f"these studies cannot be compared, since their results do not mean the same:\n{lines}")


def _shown(value: Any) -> str:
    if value in (None, ""):
        return "not reported"
    return plain(value)


def write_compare(records: Sequence[StudyRecord], folder: Path) -> Path:
    """Write the comparison as a self-contained page.

    Args:
        records: Two studies or more.
        folder: Where index.html goes; made if missing.

    Returns:
        Its path.

    Raises:
        UserError: If the studies cannot be compared.
    """
    rows = compare_table(records)
    ordered = _oldest_first(records)

    page = render(
        "compare.html.j2",
        [draw_card("progress", "Best so far", partial(_progress, ordered))],
        rows=rows,
        heads=_heads(rows),
        row_cells=[_row_cells(row, names_of_further(rows)) for row in rows],
        names=[row.name for row in rows],
        settings=_settings_side_by_side(ordered),
        differences=_config_differences(ordered),
        unknown_data=not data_hash(ordered[0]),
    )
    path = folder / "index.html"
    write_text(path, writable(page))

    return path


def _heads(rows: Sequence[StudyRow]) -> list[str]:
    measured = f"{name_of_metrics(rows)}: default → best"
    sure = f"how sure ({INTERVAL})"
    return ["study", measured, "change", *names_of_further(rows), sure, "trials", "training", "GPU energy"]


def _row_cells(row: StudyRow, further: Sequence[str]) -> list[str]:
    others = [row.further.get(name, "–") for name in further]
    hours = duration(row.hours * 3600)
    return [row.name, row.measured, row.moved, *others, row.sure, str(row.trials), hours, row.energy]


def _settings_side_by_side(records: Sequence[StudyRecord]) -> list[list[str]]:
    """Return what any of the studies searches: a path, then its default and its best value, a cell per study."""
    searched: dict[str, None] = {}
    for record in records:
        searched |= dict.fromkeys(record.spec.space)

    rows = []
    for path in searched:
        row_cells = [_default_and_best(record, path) for record in records]
        rows.append([plain(path), *row_cells])

    return rows


def _default_and_best(record: StudyRecord, path: str) -> str:
    default = flatten(record.spec.base).get(path)
    before = "–"
    if default is not None:
        before = plain(setting(default))

    if path not in record.spec.space:
        return f"{before}, not searched"

    best = best_settings(record)
    if best is None:
        return f"{before}, nothing found yet"

    after = best.trial.params.get(path, default)
    if after == default:
        return f"{before}, kept"

    return f"{before} → {plain(setting(after))}"


def _config_differences(records: Sequence[StudyRecord]) -> list[list[str]]:
    """Return the settings in which the studies' defaults or ranges differ: a path, then a cell per study."""
    described = [_described(record) for record in records]
    paths: dict[str, None] = {}
    for values in described:
        paths |= dict.fromkeys(values)

    rows = []
    for path in paths:
        row_cells = [values.get(path, "–") for values in described]
        if len(set(row_cells)) > 1:
            rows.append([path, *row_cells])

    return rows


def _described(record: StudyRecord) -> dict[str, str]:
    """Return a study's defaults, ranges, sampler, pruner and seed as words by their names."""
    spec = record.spec
    described: dict[str, str] = {}
    for path, value in flatten(spec.base).items():
        described[plain(path)] = plain(setting(value))
    for path, dimension in spec.space.root.items():
        described[plain(f"range of {path}")] = plain(dimension.describe())

    described["sampler"] = plain(spec.sampler.name)
    described["pruner"] = plain(spec.pruner.name)
    described["seed of the search"] = plain(spec.seed)
    return described


def _progress(records: Sequence[StudyRecord]) -> Drawn:
    lines = []
    named = []
    for record in records:
        line = _progress_line(record)
        lines.append(line)
        named.append(line.assign(study=plain(record.name)))

    table = pd.concat(named, ignore_index=True)
    require(not table.empty, "no trial has finished")
    metric = records[0].attributes.metric
    sentence = (
        f"The {metric.best} {plain(metric.name)} of each search against the training time that it had spent. The band "
        f"is the default with its noise. The {metric.best} of many trials looks better than it is: the verdicts above "
        "are measured on fresh seeds."
    )
    figure = _progress_figure(records, lines, metric)
    return sentence, [figure], in_metric(table[["study", "hours", "best"]], metric)


def _progress_line(record: StudyRecord) -> pd.DataFrame:
    """Return the lowest loss against the hours of training spent until then, a row per finished trial."""
    trials = trials_table(record)
    hours = trials["seconds"].fillna(0).cumsum() / 3600
    best = trials["loss"].cummin()
    line = pd.DataFrame({"hours": hours, "best": best})
    return line[trials["loss"].notna()].reset_index(drop=True)


def _progress_figure(records: Sequence[StudyRecord], lines: Sequence[pd.DataFrame], metric: Metric) -> go.Figure:
    """Draw every study's best so far against its hours, or its minutes where none took an hour."""
    unit, units_per_hour = "minutes", 60
    if max(line["hours"].max() for line in lines if len(line)) >= 1:
        unit, units_per_hour = "hours", 1

    figure = base_figure(f"{unit} of training", f"{metric.best} so far: {label(metric.title)}")

    for place, (record, line) in enumerate(zip(records, lines, strict=True)):
        colour, dash = _FURTHER_LINES
        if place < len(_LINES):
            colour, dash = _LINES[place]
        figure.add_scatter(
            x=(line["hours"] * units_per_hour).to_numpy(), y=drawn(line["best"], metric),
            mode="lines+markers", name=label(record.name),
            line={"color": colour, "dash": dash, "width": 2.5, "shape": "hv"},
            hovertemplate=f"%{{y:{digits(metric)}}}" + " after %{x:.3g} " + unit + "<extra></extra>",
        )  # fmt: skip
        _add_noise_of_default(figure, record, colour)
    return figure


def _add_noise_of_default(figure: go.Figure, record: StudyRecord, colour: str) -> None:
    default = baseline_loss(record)
    if record.verdict is None or default is None:
        return

    sigma = finite(record.verdict.sigma)
    if sigma:
        low, high = record.attributes.metric.values((default - 2 * sigma, default + 2 * sigma))
        figure.add_hrect(y0=low, y1=high, fillcolor=colour, opacity=0.15, line={"width": 0}, layer="below")
