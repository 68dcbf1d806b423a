"""The commands on several studies: compare timeline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.options import (
    RUNS,
    JsonOption,
    RunsOption,
    StorageOption,
    known_studies,
    read_named,
    usable_folder,
)
from autotune.cli.output import answer
from autotune.core.errors import UserError
from autotune.core.text import say

if TYPE_CHECKING:
    from reports.sentences.study_row import StudyRow

app = typer.Typer()


@app.command()
def compare(
    studies: Annotated[
        list[str],
        typer.Argument(metavar="STUDY", help="Two studies or more.", autocompletion=known_studies),
    ],
    out: RunsOption = RUNS,
    storage: StorageOption = "",
    folder: Annotated[Path, typer.Option(help="Folder for the page.", callback=usable_folder)] = RUNS / "compare",
    as_json: JsonOption = False,
) -> None:
    """Compares studies side by side."""
    from reports.compare import compare_table, write_compare
    from reports.formats import count, duration

    if len(studies) < 2:
        raise UserError("compare needs the names of two studies or more")

    records = [read_named(study, out, storage) for study in studies]
    path = write_compare(records, folder)

    rows = compare_table(records)
    for row in rows:
        say(f"{row.name}: {row.sentence}  [{count(row.trials, 'trial')}, {duration(row.hours * 3600)} of training]")
    say(f"page: {path}")
    if as_json:
        from autotune.cli.answers.studies import Compared

        answer(Compared(studies=[_figures(row) for row in rows], page=str(path)))


@app.command()
def timeline(
    out: RunsOption = RUNS,
    storage: StorageOption = "",
    folder: Annotated[
        Path, typer.Option(help="Folder for the page, timeline.md and the pictures.", callback=usable_folder)
    ] = RUNS / "timeline",
    into: Annotated[
        Path | None,
        typer.Option(help="A Markdown file, such as a README, to put the timeline into, or to renew it in."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Lists all studies by date: what changed, and what it brought."""
    from autotune.core.files import write_text
    from reports import timeline as history
    from reports.figures import pictures

    text = _markdown(into)
    studies = history.read_timeline(out, storage)
    figures = history.write_timeline(studies, folder)

    skipped = pictures.write_pictures(figures, folder)
    shown: tuple[str, ...] = ()
    if not skipped:
        shown = tuple(figures)
    write_text(folder / "timeline.md", history.timeline_markdown(studies, shown))

    if into is not None:
        beside = [os.path.relpath(folder / name, into.parent) for name in shown]
        write_text(into, history.put_into(text, history.timeline_markdown(studies, beside)))

    for line in history.summary(studies):
        say(line)
    say(skipped or f"pictures: {len(figures)} PNG files in {folder}")
    say(f"page: {folder / 'index.html'}")
    if as_json:
        from autotune.cli.answers.studies import Timeline

        entries = [{**_figures(row), "kind": kind} for row, kind in zip(studies.rows, studies.kinds, strict=True)]
        answer(
            Timeline(
                studies=entries,
                kinds=dict(studies.meanings),
                unreadable=dict(studies.unreadable),
                page=str(folder / "index.html"),
                pictures=[str(folder / name) for name in shown],
            )
        )


def _markdown(into: Path | None) -> str:
    """Return the text that a timeline is put into, "" if there is none yet; whatever else is in it stays as it is."""
    if into is None or not into.exists():
        return ""
    if into.is_dir():
        raise UserError(f"--into {into} is a folder; name a Markdown file")

    try:
        return into.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--into {into} is no UTF-8 text (byte {error.start:,}), and would be damaged; save it as UTF-8, or name "
            "another file"
        ) from None


def _figures(row: StudyRow) -> dict[str, Any]:
    """Return what is told to programs of a study among others."""
    names = ("verdict", "before", "after", "gain_frac", "gain_low_frac", "gain_high_frac", "trials", "key_change")
    figures = {name: getattr(row, name) for name in names}
    told = {"study": row.name, "created_at": row.created, "busy_s": 3600 * row.hours, "says": row.sentence}
    return told | figures
