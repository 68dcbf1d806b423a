"""The commands on studies that are there: status stop report watch compare timeline."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.options import (
    RUNS,
    JsonOption,
    RunsOption,
    StudyArgument,
    known_studies,
    require_begun,
    run_directory,
    usable_folder,
)
from autotune.core.errors import UserError
from autotune.core.text import say

app = typer.Typer()

_WATCHED_S = 15
"""Seconds after which an open page of `autotune watch` is loaded again."""


@app.command()
def status(study: StudyArgument, out: RunsOption = RUNS, as_json: JsonOption = False) -> None:
    """Shows how a study stands, also while it runs."""
    from autotune.cli import status
    from autotune.store.study_store import read_study

    record = read_study(run_directory(study, out))
    stands = status.summarize(record)
    if as_json:
        typer.echo(json.dumps(stands, indent=2, default=str))
    else:
        say(status.describe(stands))


@app.command()
def stop(
    study: StudyArgument,
    out: RunsOption = RUNS,
    now: Annotated[bool, typer.Option("--now", help="End running trials at once; they are queued again.")] = False,
) -> None:
    """Asks a running study to park; nothing is lost."""
    from autotune.store.run_directory import RunDirectory

    run_dir = RunDirectory(run_directory(study, out))
    require_begun(run_dir.root)
    pid = run_dir.running_pid()
    if pid is None:
        raise UserError(f"{run_dir.root.name} is not running; {run_dir.command('status')} says how it stands", 2)

    os.kill(pid, signal.SIGINT)
    if now:
        # Another signal than the first: two of the same kind in quick succession may arrive as one.
        os.kill(pid, signal.SIGTERM)
        say(f"asked PID {pid} to stop now")
    else:
        say(f"asked PID {pid} to park after the next evaluation")


@app.command()
def report(study: StudyArgument, out: RunsOption = RUNS) -> None:
    """Writes a study's report again, from its stored records.

    Where a browser is there, its figures become PNG files too.
    """
    from autotune.store.study_store import read_study
    from reports.page import add_pictures

    root = run_directory(study, out)
    finish_report(root)
    say(add_pictures(read_study(root), root / "report") or f"pictures: {root / 'report'}/*.png")


@app.command()
def watch(
    study: StudyArgument,
    out: RunsOption = RUNS,
    port: Annotated[int, typer.Option(help="Port of 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8642,
) -> None:
    """Serves a study's page to this machine's browser.

    The page is drawn anew while the study works. Ctrl-C ends the watching only.
    """
    from autotune.cli.page_server import PageServer
    from autotune.store.study_store import read_study
    from reports.page import study_page

    root = run_directory(study, out)
    read_study(root)  # it raises if there is none, before anything is served

    for name in (signal.SIGINT, signal.SIGTERM):  # a shell may have left the first ignored
        signal.signal(name, signal.default_int_handler)

    with PageServer(lambda: study_page(read_study(root), _WATCHED_S), port) as server:
        say(f"{root.name}: {server.address}  (Ctrl-C ends the watching; a study that runs goes on)")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


@app.command()
def compare(
    studies: Annotated[
        list[str],
        typer.Argument(metavar="STUDY", help="Two studies or more.", autocompletion=known_studies),
    ],
    out: RunsOption = RUNS,
    folder: Annotated[Path, typer.Option(help="Where the page goes.", callback=usable_folder)] = RUNS / "compare",
) -> None:
    """Puts studies side by side."""
    from autotune.store.study_store import read_study
    from reports.compare import compare_table, write_compare
    from reports.formats import count, duration

    if len(studies) < 2:
        raise UserError("name two studies or more to compare")

    records = [read_study(run_directory(study, out)) for study in studies]
    path = write_compare(records, folder)

    for row in compare_table(records):
        say(f"{row.name}: {row.sentence}  [{count(row.trials, 'trial')}, {duration(row.hours * 3600)} of training]")
    say(f"page: {path}")


@app.command()
def timeline(
    out: RunsOption = RUNS,
    folder: Annotated[
        Path, typer.Option(help="Where the page, timeline.md and pictures go.", callback=usable_folder)
    ] = RUNS / "timeline",
    into: Annotated[
        Path | None, typer.Option(help="A Markdown file, a README say, that takes the section; renewed if it is there.")
    ] = None,
) -> None:
    """Tells all studies in order: changes, losses, how sure."""
    from autotune.core.files import write_text
    from reports.figures import pictures
    from reports.figures import timeline as history

    if into is not None and into.is_dir():
        raise UserError(f"--into {into} is a folder; name a Markdown file")
    studies = history.read_timeline(out)
    figures = history.write_timeline(studies, folder)

    skipped = pictures.write_pictures(figures, folder)
    shown = () if skipped else tuple(figures)
    write_text(folder / "timeline.md", history.timeline_markdown(studies, shown))

    if into is not None:
        beside = [os.path.relpath(folder / name, into.parent) for name in shown]
        text = into.read_text(encoding="utf-8", errors="replace") if into.exists() else ""
        write_text(into, history.put_into(text, history.timeline_markdown(studies, beside)))

    for line in history.summary(studies):
        say(line)
    say(skipped or f"pictures: {len(figures)} PNG files in {folder}")
    say(f"page: {folder / 'index.html'}")


def refresh_report(root: Path) -> None:
    """Write the report of a study that is running."""
    from autotune.progress.observer import REFRESH_EVERY_S
    from autotune.store.study_store import read_study
    from reports.page import write_report

    write_report(read_study(root), root / "report", round(REFRESH_EVERY_S))


def finish_report(root: Path) -> list[str]:
    """Write a study's report, and say the verdict, the next command and the page's path.

    Returns:
        The lines that were said of the study, without the path.
    """
    from autotune.store.study_store import read_study
    from reports.page import summary_lines, write_report

    record = read_study(root)
    path = write_report(record, root / "report")
    lines = summary_lines(record)

    for line in ["", *lines, f"report: {path}"]:
        say(line)
    return lines
