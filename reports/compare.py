"""Several studies side by side, refused where their numbers do not mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from autotune.core.config_paths import flatten
from autotune.core.errors import UserError
from autotune.core.files import write_text
from autotune.store.study_store import StudyRecord
from reports import attribution, tables
from reports.figures.figure_cards import Card, Drawn, NothingToDrawError, draw_card
from reports.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, base_figure
from reports.formats import duration, finite, label, plain, setting
from reports.page import render, writable
from reports.studies import StudyRow, data_hash, meanings, study_row

LINES = (
    (BLUE, "solid"), (ORANGE, "dash"), (GREEN, "dot"), (VERMILLION, "dashdot"), (PURPLE, "longdash"), (SKY, "solid"),
)  # fmt: skip


PROGRESS_SENTENCE = (
    "The lowest loss of each search against the time of training it had spent. The band is the default with its "
    "noise. The lowest of many trials looks better than it is: the verdicts above are measured on fresh seeds."
)


def compare_table(records: Sequence[StudyRecord]) -> list[StudyRow]:
    """Returns a row per study, oldest first.

    Args:
        records: Two studies or more.

    Raises:
        UserError: If there are fewer than two, or they differ in data, budget or evaluation.
    """
    require_comparable(records)
    return [study_row(record) for record in sorted(records, key=lambda record: record.created_at)]


def require_comparable(records: Sequence[StudyRecord]) -> None:
    """Refuses studies whose losses do not mean the same.

    Args:
        records: The studies.

    Raises:
        UserError: Naming each difference and its values.
    """
    if len(records) < 2:
        raise UserError(f"a comparison needs two studies, and there is {len(records)}; name another")
    found = []
    for name, read in meanings().items():
        values = [(record.spec.name, read(record)) for record in records]
        if len({str(value) for _, value in values}) > 1:
            listed = ", ".join(f"{study}: {_shown(value)}" for study, value in values)
            found.append(f"  {name} differs ({listed})")
    if found:
        lines = "\n".join(found)
        raise UserError(f"these studies cannot be compared, since their losses do not mean the same:\n{lines}")


def _shown(value: Any) -> str:
    return "not reported" if value in (None, "") else plain(value)


def write_compare(records: Sequence[StudyRecord], folder: Path) -> Path:
    """Writes the comparison as a self-contained page.

    Args:
        records: Two studies or more.
        folder: Where index.html goes; made if missing.

    Returns:
        Its path.

    Raises:
        UserError: If the studies cannot be compared.
    """
    rows = compare_table(records)
    ordered = sorted(records, key=lambda record: record.created_at)
    page = render(
        "compare.html.j2", [_progress_card(ordered)], rows=rows, row_cells=[_row_cells(row) for row in rows],
        names=[row.name for row in rows], settings=settings_found(ordered), differences=config_differences(ordered),
        unknown_data=not data_hash(ordered[0]),
    )  # fmt: skip
    write_text(folder / "index.html", writable(page))
    return folder / "index.html"


def _row_cells(row: StudyRow) -> list[str]:
    hours = duration(row.hours * 3600)
    return [row.name, row.loss, row.moved, row.perplexity, row.accuracy, row.sure, str(row.trials), hours, row.energy]


def settings_found(records: Sequence[StudyRecord]) -> list[list[str]]:
    """Returns what any of the studies searches: path, then its default and what was found, a cell per study.

    Args:
        records: The studies.
    """
    paths = dict.fromkeys(path for record in records for path in record.spec.space)
    return [[plain(path), *(_found(record, path) for record in records)] for path in paths]


def _found(record: StudyRecord, path: str) -> str:
    default = flatten(record.spec.base).get(path)
    before = "–" if default is None else plain(setting(default))
    if path not in record.spec.space:
        return f"{before}, not searched"
    best = attribution.best_settings(record)
    if best is None:
        return f"{before}, nothing found yet"
    after = best.get(path, default)
    return f"{before}, kept" if after == default else f"{before} → {plain(setting(after))}"


def config_differences(records: Sequence[StudyRecord]) -> list[list[str]]:
    """Returns the settings in which the studies' defaults or ranges differ: path, then a cell per study.

    Args:
        records: The studies.
    """
    described = [_described(record) for record in records]
    paths = dict.fromkeys(path for one in described for path in one)
    rows = [[path, *(one.get(path, "–") for one in described)] for path in paths]
    return [row for row in rows if len(set(row[1:])) > 1]


def _described(record: StudyRecord) -> dict[str, str]:
    values = {path: setting(value) for path, value in flatten(record.spec.base).items()}
    ranges = {f"range of {path}": dimension.describe() for path, dimension in record.spec.space.root.items()}
    engine = {
        "sampler": record.spec.sampler.name,
        "pruner": record.spec.pruner.name,
        "seed of the search": record.spec.seed,
    }
    return {plain(path): plain(value) for path, value in (values | ranges | engine).items()}


def progress(record: StudyRecord) -> pd.DataFrame:
    """Returns the lowest loss against the hours of training spent until then.

    Args:
        record: The study.

    Returns:
        Columns hours and best (nats per token), a row per finished trial.
    """
    trials = tables.trials_table(record)
    hours = trials["seconds"].fillna(0).cumsum() / 3600
    best = trials["loss"].cummin()
    return pd.DataFrame({"hours": hours, "best": best})[trials["loss"].notna()].reset_index(drop=True)


def _progress_card(records: Sequence[StudyRecord]) -> Card:
    def draw() -> Drawn:
        figure, table = progress_figure(records)
        return PROGRESS_SENTENCE, [figure], table

    return draw_card("progress", "Best so far", draw)


def progress_figure(records: Sequence[StudyRecord]) -> tuple[go.Figure, pd.DataFrame]:
    """Draws every study's best so far against its hours.

    Args:
        records: The studies.

    Returns:
        The figure and its table.

    Raises:
        NothingToDrawError: If no trial of any has finished.
    """
    lines = [progress(record) for record in records]
    table = pd.concat(
        [line.assign(study=plain(record.spec.name)) for line, record in zip(lines, records, strict=True)],
        ignore_index=True,
    )
    if table.empty:
        raise NothingToDrawError("no trial has finished")
    unit, per_hour = ("hours", 1) if table["hours"].max() >= 1 else ("minutes", 60)
    figure = base_figure(f"{unit} of training", "lowest loss so far (nats per token)")
    for place, (record, line) in enumerate(zip(records, lines, strict=True)):
        colour, dash = LINES[place % len(LINES)] if place < len(LINES) else (GREY, "dot")
        figure.add_scatter(
            x=(line["hours"] * per_hour).to_numpy(), y=line["best"].to_numpy(),
            mode="lines+markers", name=label(record.spec.name),
            line={"color": colour, "dash": dash, "width": 2.5, "shape": "hv"},
            hovertemplate="%{y:.4f} after %{x:.3g} " + unit + "<extra></extra>",
        )  # fmt: skip
        sigma, default = finite(record.verdict.sigma) if record.verdict else None, tables.baseline_loss(record)
        if sigma and default is not None:
            low, high = default - 2 * sigma, default + 2 * sigma
            figure.add_hrect(y0=low, y1=high, fillcolor=colour, opacity=0.15, line={"width": 0}, layer="below")
    return figure, table[["study", "hours", "best"]]
