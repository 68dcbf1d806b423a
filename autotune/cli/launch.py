"""What the commands that train have in common: the options of a run, its output, and what happens at its end."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.cli.ending import INTERRUPTED
from autotune.cli.options import RUNS, begun_folder
from autotune.cli.studies import refresh_report
from autotune.core.errors import UserError
from autotune.core.text import say

if TYPE_CHECKING:
    from autotune.engine.deadline import Deadline
    from autotune.engine.session_end import SessionEnd
    from autotune.night.session import Options, Session
    from autotune.progress.mirroring import Mirroring
    from autotune.study.study_file import Study

MIRROR_MINUTES = 5.0
"""Minutes between two snapshots, if the command line does not say."""


@dataclass(frozen=True)
class Hosting:
    """Where a run is at home for a while: a session that ends, and a mirror that outlives it.

    Args:
        session_hours: Hours until the session ends; None if it does not.
        mirror: Folder of the mirror; None for none.
        mirror_minutes: Minutes between two snapshots.
    """

    session_hours: float | None = None
    mirror: Path | None = None
    mirror_minutes: float = MIRROR_MINUTES

    @functools.cached_property
    def mirroring(self) -> Mirroring | None:
        """What keeps the mirror, None without one."""
        if self.mirror is None:
            return None

        from autotune.progress.mirroring import Mirroring

        return Mirroring(self.mirror, 60 * self.mirror_minutes, say)

    @functools.cached_property
    def session(self) -> SessionEnd:
        """The end of the session."""
        from autotune.engine.session_end import SessionEnd

        mirroring = self.mirroring
        return SessionEnd(self.session_hours, lambda: mirroring.longest_s if mirroring else 0.0)

    def adopt(self, root: Path) -> None:
        """Go on from the mirror, if it holds a later state of a study than its run directory.

        Args:
            root: The run directory.
        """
        from autotune.store.run_directory import RunDirectory

        if self.mirroring is not None:
            self.mirroring.adopt(RunDirectory(root))

    def adopt_named(self, study: str, out: Path) -> None:
        """Go on from the mirror with the study that a name means: its study file may be in the mirror alone.

        Args:
            study: What the command line says; a study file names no run directory yet.
            out: Folder of the run directories.
        """
        if study.strip() and not os.path.isfile(study):
            self.adopt(begun_folder(study, out) or out / study)

    def require_own_database(self, study: Study) -> None:
        """Refuse the mirror of a study whose records are in a database that its machines share."""
        if self.mirror is not None and study.spec.storage:
            raise UserError(
                f"{study.spec.name} keeps its records in a database of its own (storage), which no mirror copies and "
                "any machine goes on from: leave --mirror out"
            )

    def finish(self) -> None:
        """Have the last snapshot taken, and say what came of it."""
        for line in self.mirroring.finish() if self.mirroring else []:
            say(line)

    def arguments(self, out: Path) -> tuple[str, ...]:
        """Return the options of the command that goes on.

        Args:
            out: Folder of the run directories.
        """
        given: list[str] = []
        if self.session_hours is not None:
            given += ["--session-hours", f"{self.session_hours:g}"]
        if self.mirror is not None:
            # That command is typed where `runs/` is, which need not be here.
            mirror = self.mirror if out == RUNS else self.mirror.absolute()
            given += ["--mirror", str(mirror)]
        if self.mirror is not None and self.mirror_minutes != MIRROR_MINUTES:
            given += ["--mirror-minutes", f"{self.mirror_minutes:g}"]
        return tuple(given)


@contextlib.contextmanager
def keeping_what_was_trained(session: Session) -> Iterator[None]:
    """Tell of a Ctrl-C that comes after the study has parked, as its report is written, what is true then.

    Args:
        session: What runs in the block.

    Raises:
        UserError: With exit code 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not session.began:
            raise
        run = session.run
        raise UserError(
            f"stopped before its end was told; what was trained is kept: see {run.command('status')}", INTERRUPTED
        ) from None


def make_options(
    study: Study,
    out: Path,
    device: str,
    emulate: str,
    deadline: Deadline,
    hosting: Hosting | None = None,
    night: Sequence[str] | None = None,
    is_worker: bool = False,
) -> Options:
    """Return the options of one run of a study.

    Args:
        study: The study file and its trainer.
        out: Folder of the run directories.
        device: "auto", "cpu", "cuda" or "cuda:1".
        emulate: "" or "t4".
        deadline: When everything must be done.
        hosting: Session and mirror; None for none.
        night: The options of a night's hours, see `night_options`; None if this is not a night.
        is_worker: Whether it trains for a shared study alone.

    Raises:
        UserError: If the study's storage is not for that.
    """
    from autotune.night.session import Options

    hosting = hosting or Hosting()
    hosting.require_own_database(study)
    if is_worker and not study.spec.storage:
        raise UserError(
            f"{study.spec.name} is run by one process, in its own folder, so there is nothing for a --worker: leave it "
            'out, or name a database that machines share (storage = "postgresql://user@host/db")'
        )

    place = [*_named("--device", device, "auto"), *_named("--emulate", emulate, "")]
    again = {"promote": [*place, *hosting.arguments(out)]}
    if night is not None:
        again["run"] = [*place, *night, *hosting.arguments(out)]

    def refresh(root: Path) -> None:
        refresh_report(root, study.spec.storage)

    return Options(
        out,
        device,
        emulate,
        audience(),
        deadline,
        refresh,
        session=hosting.session,
        mirror=hosting.mirroring,
        again=again,
        is_worker=is_worker,
    )


def night_options(hours: float | None, until: str | None) -> list[str]:
    """Return the options of a night's hours, as the command that goes on with it has them.

    Args:
        hours: Within how many hours everything is to be finished; None for those of the study file.
        until: By which time of day; None for that of the study file.
    """
    given = [] if hours is None else ["--hours", f"{hours:g}"]
    return [*given, *_named("--until", until, None)]


def _named(option: str, value: str | None, default: str | None) -> list[str]:
    return [] if value is None or value == default else [option, value]


def audience() -> Callable[[str], None]:
    """Return what takes the lines of a run: a screen on a terminal, plain lines anywhere else."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb" or is_in_notebook(os.environ):
        return say

    from autotune.progress.terminal import Screen

    return Screen()


def is_in_notebook(environment: Mapping[str, str]) -> bool:
    """Return whether a terminal is that of a notebook's cell, which keeps whatever is drawn over.

    `!command` runs in a pseudo-terminal there, and only the environment that a kernel leaves its children tells.

    Args:
        environment: The variables of this process.
    """
    is_kernels_child = "JPY_PARENT_PID" in environment or "KAGGLE_KERNEL_RUN_TYPE" in environment
    # Kernels that were started without Jupyter's launcher, as some editors do, set these all the same.
    has_cells_pagers = environment.get("PAGER") == environment.get("GIT_PAGER") == "cat"
    return is_kernels_child or (has_cells_pagers and environment.get("TERM") == "xterm-color")


def announce(root: Path, code: int, lines: Sequence[str], on_finish: str, webhook: str) -> None:
    """Run the command and call the address that were given for the end of a run; their failures are only printed."""
    from autotune.cli import notify

    ending = notify.Ending(root.name, code, lines, root / "report" / "index.html")
    troubles = []
    if on_finish:
        troubles.append(notify.run_command(on_finish, ending))
    if webhook:
        troubles.append(notify.call_webhook(webhook, ending))

    for trouble in troubles:
        if trouble:
            say(trouble)
