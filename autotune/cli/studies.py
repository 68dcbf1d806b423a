"""The commands on one study that was begun: status stop report watch."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.options import (
    RUNS,
    JsonOption,
    RunsOption,
    StorageOption,
    StudyArgument,
    is_shared,
    named_storage,
    read_named,
    read_with_shared_files,
    require_begun,
    run_directory,
)
from autotune.cli.output import answer
from autotune.core.errors import UserError
from autotune.core.text import say

if TYPE_CHECKING:
    from autotune.store.study_record import StudyRecord

app = typer.Typer()

_MOST_LOG_BYTES = 1_000_000
"""Most of a trial's log that `autotune watch` shows: its end."""
_WATCHED_S = 15
"""Seconds after which an open page of `autotune watch` is loaded again."""


@app.command()
def status(
    study: StudyArgument, out: RunsOption = RUNS, storage: StorageOption = "", as_json: JsonOption = False
) -> None:
    """Shows the progress and the results of a study."""
    from autotune.cli import status

    root = run_directory(study, out)
    state = status.in_preparation(root)
    words = status.describe_preparation
    if state is None:
        state = status.summarize(read_named(study, out, storage))
        words = status.describe

    if as_json:
        from autotune.cli.answers.studies import Status

        answer(Status(**state))
    else:
        say(words(state))


@app.command()
def stop(
    study: StudyArgument,
    out: RunsOption = RUNS,
    now: Annotated[
        bool, typer.Option("--now", help="Stop at once; the trials that were running are run again later.")
    ] = False,
    storage: StorageOption = "",
    as_json: JsonOption = False,
) -> None:
    """Parks a running study: `autotune run` resumes it.

    It stops after the next evaluation, on all machines that share it, and nothing is lost.
    """
    from autotune.store.run_directory import RunDirectory

    run_dir = RunDirectory(run_directory(study, out))
    if is_shared(study, out, storage):
        _stop_all(read_named(study, out, storage), now, as_json)
        return

    pid = run_dir.running_pid()
    if pid is None:
        require_begun(run_dir.root)
        raise UserError(f"{run_dir.root.name} is not running; {run_dir.command('status')} shows what it has done", 2)

    if not run_dir.takes_signals():
        raise UserError(
            f"{run_dir.root.name} runs in a thread of PID {pid}, which no signal reaches: there, "
            f"autotune.load({str(run_dir.root)!r}).stop() parks it"
        )

    os.kill(pid, signal.SIGINT)
    if now:
        # Another signal than the first: two of the same kind in quick succession may arrive as one.
        os.kill(pid, signal.SIGTERM)
        say(f"asked PID {pid} to stop now")
    else:
        say(f"asked PID {pid} to park after the next evaluation")
    if as_json:
        from autotune.cli.answers.studies import Stopped

        answer(Stopped(study=run_dir.name, pid=pid, now=now))


def _stop_all(record: StudyRecord, now: bool, as_json: bool) -> None:
    from autotune.night.steer import stop_all

    stop_all(record, now)
    when = "now" if now else "after the next evaluation"
    for peer in record.peers:
        say(f"asked peer {peer.id} on {peer.host} to park {when}")
    if as_json:
        from autotune.cli.answers.studies import Stopped

        answer(Stopped(study=record.name, peers=tuple(peer.id for peer in record.peers), now=now))


@app.command()
def report(
    study: StudyArgument, out: RunsOption = RUNS, storage: StorageOption = "", as_json: JsonOption = False
) -> None:
    """Writes a study's report again, from its stored records.

    If Chromium or Chrome is installed, it also saves the figures as PNG files.
    """
    from reports.page import add_pictures

    record = read_with_shared_files(study, out, storage)
    folder = record.run.report
    if folder.is_symlink():
        raise UserError(
            f"{folder} is a link to {os.readlink(folder)}: remove it, and the report is written in its place"
        )

    lines = _report(record)
    skipped = add_pictures(record, folder)
    say(skipped or f"pictures: {folder}/*.png")
    if as_json:
        from autotune.cli.answers.studies import Reported

        pictures = [] if skipped else sorted(map(str, folder.glob("*.png")))
        page = str(folder / "index.html")
        answer(Reported(study=record.name, says=lines, report=page, pictures=pictures, no_pictures_why=skipped))


@app.command()
def watch(
    study: StudyArgument,
    out: RunsOption = RUNS,
    storage: StorageOption = "",
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 picks a free one.", min=0, max=65535)] = 8642,
    as_json: Annotated[
        bool, typer.Option("--json", help="Serve nothing: print each event as a line of JSON until the study ends.")
    ] = False,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="With --json: events from then on, as 30m or 2026-01-31T22:00.")
    ] = "",
    once: Annotated[
        bool, typer.Option("--once", help="With --json: what has happened until now, and no more.")
    ] = False,
    heartbeat: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="With --json: a sign of life after so long without an event.", min=1),
    ] = 15,
) -> None:
    """Serves a study's page, or with --json prints its events.

    The page is served on 127.0.0.1, for this machine's browser. While the study runs, it shows its progress.
    Ctrl-C stops the server and not the study.
    """
    if as_json:
        _watch_events(study, out, storage, since, once, heartbeat)
        return
    if since or once:
        raise UserError("--since and --once go with --json: the page shows everything")

    from autotune.cli import status
    from autotune.cli.page_server import PageServer
    from autotune.store.study_record import read_study
    from reports.page import preparation_page, study_page

    root = run_directory(study, out)
    url = named_storage(study, out, storage)

    def draw() -> str:
        state = status.in_preparation(root)
        if state is not None:
            return preparation_page(root.name, state["last_event"] or "", _WATCHED_S)
        return study_page(read_study(root, url), _WATCHED_S)

    if status.in_preparation(root) is None:
        read_study(root, url)  # it raises if there is none, before anything is served

    _heed_ctrl_c()
    with PageServer(draw, port, lambda trial: read_log(root, trial)) as server:
        say(f"{root.name}: {server.address}  (Ctrl-C stops this server and not the study)")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _watch_events(study: str, out: Path, storage: str, since: str, once: bool, heartbeat_s: float) -> None:
    from autotune.cli.events.stream import Stream, moment, print_events

    _heed_ctrl_c()
    root, url = run_directory(study, out), named_storage(study, out, storage)
    print_events(Stream(root, url, moment(since) if since else 0.0, heartbeat_s), once)


def _heed_ctrl_c() -> None:
    for name in (signal.SIGINT, signal.SIGTERM):  # a shell may have left the first ignored
        signal.signal(name, signal.default_int_handler)


def read_log(root: Path, trial: str) -> bytes | None:
    """Return the end of a trial's log; None if there is none, or if it is a link out of the study's folder.

    Args:
        root: The study's folder.
        trial: Name of the trial's folder.
    """
    path = root / "trials" / trial / "log.txt"
    try:
        if path.resolve() != root.resolve() / "trials" / trial / "log.txt" or not path.is_file():
            return None
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _MOST_LOG_BYTES))
            return log.read(_MOST_LOG_BYTES)
    except OSError:
        return None


def say_words(_kind: str, words: str) -> None:
    """Say what is noteworthy of a study that has ended."""
    say(words)


def refresh_report(root: Path, storage: str) -> None:
    """Write the report of a study that is running."""
    from autotune.progress.observer import REFRESH_EVERY_S
    from autotune.store.study_record import read_study
    from reports.page import write_report

    write_report(read_study(root, storage), root / "report", round(REFRESH_EVERY_S))


def finish_report(root: Path, storage: str) -> list[str]:
    """Write a study's report, and say the verdict, the next command and the page's path.

    Returns:
        The lines that were said of the study, without the path.
    """
    from autotune.store.study_record import read_study

    return _report(read_study(root, storage))


def ended(root: Path, storage: str, code: int, lines: Sequence[str]) -> dict[str, Any]:
    """Return what is told to programs of a study when a command that trained has ended.

    Args:
        root: The run directory.
        storage: The shared database of a study that has one.
        code: What the command ends with.
        lines: What a person was told at the end.
    """
    from autotune.cli import status
    from autotune.store.study_record import read_study

    page = root / "report" / "index.html"
    told = {"exit_code": code, "says": list(lines), "report": str(page) if lines and page.exists() else None}
    return status.summarize(read_study(root, storage)) | told


def try_to_report(root: Path, storage: str) -> tuple[list[str], UserError | None]:
    """Write the report of a run that has ended, which may have ended before its first trial or as its disk is full.

    Returns:
        The lines that were said of the study, and why there is no report, None if there is one or nothing to report.
    """
    from autotune.store.faults import explained
    from autotune.store.study_record import read_study

    try:
        record = read_study(root, storage)
        return (_report(record) if record.has_trained else []), None
    except UserError as error:
        return [], error
    except Exception as error:
        told = explained(error, root)
        if told is None:
            raise
        return [], told


def _report(record: StudyRecord) -> list[str]:
    from reports.page import summary_lines, write_report

    path = write_report(record, record.run.report)
    lines = summary_lines(record)

    for line in ["", *lines, *_how_to_call(), f"report: {path}"]:
        say(line)
    return lines


def _how_to_call() -> list[str]:
    """Return how a person at a terminal can type the commands that are shown, as `make tune` activates nothing."""
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("autotune") or not activate.is_file() or not sys.stdout.isatty():
        return []
    if activate.is_relative_to(Path.cwd()):
        activate = activate.relative_to(Path.cwd())
    return [f"(first, once in each terminal: source {shlex.quote(str(activate))})"]
