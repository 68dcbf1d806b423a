"""A study at work in this process: its steps, its report at the end, and the wish to stop it from another thread."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from autotune.cli.launch import Hosting
from autotune.cli.options import known_device
from autotune.cli.studies import say_words, try_to_report
from autotune.core.errors import UserError
from autotune.engine.deadline import StopRequest
from autotune.machine.host import choose_thread_waiting
from autotune.machine.nvml import NvmlError
from autotune.night.session import Options, Session
from autotune.store.absence import Patience, patient
from autotune.store.faults import explain_storage_errors
from autotune.store.run_directory import RunDirectory

if TYPE_CHECKING:
    from autotune.study.study_file import Study

_AT_WORK: dict[Path, StopRequest] = {}
"""The studies that this process runs now, by their folder."""


@contextlib.contextmanager
def faults_told() -> Iterator[None]:
    """Turn what a user can do something about into a `UserError`, as the command line turns it into a sentence."""
    try:
        with explain_storage_errors():
            yield
    except NvmlError as error:
        raise UserError(f"{error}; see `autotune doctor`", 3) from error


def work(study: Study, root: Path, options: Options, hosting: Hosting, steps: Callable[[Session], int]) -> None:
    """Do the steps of a study, and write its report and the last snapshot of its mirror however they end.

    Args:
        study: The study file and its trainer.
        root: Its run directory.
        options: What the call says, by `make_options`.
        hosting: Its session and mirror.
        steps: What is done, such as `Session.work`.

    Raises:
        UserError: If the study cannot go on; what was done before stays usable.
    """
    choose_thread_waiting(os.environ)
    session = Session(study, options, root)

    no_report: UserError | None = None
    with faults_told(), _stoppable(session):
        try:
            steps(session)
        finally:
            if session.began:
                has_failed = sys.exc_info()[0] is not None
                with patient(None if has_failed else Patience(say_words)):
                    _, no_report = try_to_report(root, study.spec.storage)
                hosting.finish()

    if no_report is not None:
        raise no_report


def hosting_of(session_hours: float | None, mirror: str | Path | None, mirror_minutes: float) -> Hosting:
    """Return the session and the mirror that a call names.

    Args:
        session_hours: Hours until the session ends; None if it does not.
        mirror: Folder of the mirror; None for none.
        mirror_minutes: Minutes between two snapshots.

    Raises:
        UserError: If a number is not above 0.
    """
    for name, number in (("session_hours", session_hours), ("mirror_minutes", mirror_minutes)):
        if number is not None and not (isinstance(number, int | float) and 0 < number < math.inf):
            raise UserError(f"{name} is {number!r}; write a number above 0")
    return Hosting(session_hours, Path(mirror) if mirror else None, mirror_minutes)


def require_known_device(device: str) -> None:
    """Refuse a device of another name than the command line takes.

    Args:
        device: Its name.
    """
    try:
        known_device(device)
    except typer.BadParameter as error:
        raise UserError(f"device: {error.message}") from None


@contextlib.contextmanager
def _stoppable(session: Session) -> Iterator[None]:
    folder = session.run.root.resolve()
    # The second of two in one process is refused where it takes the lock, and must not replace the first.
    if folder in _AT_WORK:
        yield
        return

    _AT_WORK[folder] = session.stop
    try:
        yield
    finally:
        del _AT_WORK[folder]


def stop(run: RunDirectory, now: bool, storage: str = "") -> None:
    """Park a study that runs, in this process or in another.

    Args:
        run: Its run directory.
        now: Whether trainings are not let go on to their next evaluation.
        storage: URL of the database that it shares with other machines: it is parked on all of them.

    Raises:
        UserError: If it does not run.
    """
    from autotune.cli import studies

    request = _AT_WORK.get(run.root.resolve())
    if request is None or storage:
        studies.stop(str(run.root), out=run.root.parent, now=now, storage=storage)
        return

    request.raise_level()
    if now:
        request.raise_level()
