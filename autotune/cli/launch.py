"""What the commands that train have in common: the options of a run, its output, and what happens at its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.cli.studies import refresh_report
from autotune.core.text import say

if TYPE_CHECKING:
    from autotune.engine.deadline import Deadline
    from autotune.night.session import Options
    from autotune.study.study_file import Study


def make_options(study: Study, out: Path, device: str, emulate: str, deadline: Deadline) -> Options:
    """Return the options of one run of a study."""
    from autotune.night.session import Options

    def refresh(root: Path) -> None:
        refresh_report(root, study.spec.storage)

    return Options(out, device, emulate, audience(), deadline, refresh)


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
