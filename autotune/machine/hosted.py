"""A study in a notebook on Colab, on Kaggle or at home: what the cells of studies/overnight.ipynb call.

The project is installed into an environment of its own and runs in a process of its own, so that nothing that the
notebook's kernel has is replaced. Therefore nothing is imported here beyond the standard library and IPython.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from autotune.core.child import end_with_parent
from autotune.core.page_frame import PageFrame

_ROOT = Path(__file__).resolve().parents[2]
_DRIVE = Path("/content/drive")
"""Where Colab mounts Google Drive."""
_PARKED = 130


class HostedStudy:
    """One study, and how it is run in this notebook.

    Args:
        study: A study file, or the name of a study; "" for a night on a GPU and the quickstart on a CPU.
        hours: Within how many hours everything is to be finished, those of all sessions; None for those of its file.
        session_hours: Hours until the session ends; None if it does not.
        mirror: Folder that outlives the machine; "" for none, "auto" for one on Google Drive on Colab, else none.
        options: Further options of `autotune run`, as they are typed.
    """

    def __init__(
        self,
        study: str = "",
        *,
        hours: float | None = None,
        session_hours: float | None = None,
        mirror: str = "auto",
        options: str = "",
    ) -> None:
        self.study = study
        self.hours = hours
        self.session_hours = session_hours
        self.mirror = mirror
        self.options = options
        self._page: Path | None = None

    def run(self) -> PageFrame | None:
        """Set up what is missing, run the study or resume it, and return its page.

        The stop button parks it: it stops after the next evaluation, and the same call goes on.

        Returns:
            The page, also of a study that was parked; None if there is none yet.
        """
        arguments = shlex.split(self.options)
        for option, value in (("--hours", self.hours), ("--session-hours", self.session_hours)):
            arguments += [option, f"{value:g}"] if value else []
        mirror = mounted(self.mirror)
        arguments += ["--mirror", mirror] if mirror else []

        ended = _streamed([*command(), "run", *filter(None, [self.study]), *arguments])
        told = re.findall(r"^report: (.+)$", ended.text, flags=re.MULTILINE)
        self._page = _folder() / told[-1] if told else None
        return self.page()

    def page(self, height: int = 800) -> PageFrame | None:
        """Return the study's page, as it was written last.

        Args:
            height: Of the frame, in pixels.
        """
        if self._page is None or not self._page.exists():
            return None
        return PageFrame(self._page.read_text(encoding="utf-8"), height)

    @property
    def folder(self) -> str:
        """The study's folder, by which every command knows it; "" if it has not run here."""
        return str(self._page.parents[1]) if self._page else ""

    def do(self, line: str) -> None:
        """Run another command, as `run` and the page show it.

        Args:
            line: The command, such as "autotune promote overnight --tokens 2000000000".
        """
        first, *arguments = shlex.split(line)
        _streamed([*command(), *([] if first == "autotune" else [first]), *arguments])


def command() -> list[str]:
    """Return the command line of `autotune`, set up first where it is missing.

    Raises:
        RuntimeError: If it cannot be set up; why is printed before.
    """
    beside_this_python = Path(sysconfig.get_path("scripts")) / "autotune"
    if beside_this_python.exists():
        return [str(beside_this_python)]

    # What is up to date is left as it is.
    make = ["make", "--silent", "--no-print-directory", "-C", str(_ROOT), f"PYTHON={sys.executable}", ".venv/.tune"]
    if _streamed(make).code != 0:
        raise RuntimeError(f"setting up in {_ROOT} has failed, for the reason above")
    return [str(_ROOT / ".venv" / "bin" / "autotune")]


def mounted(mirror: str) -> str:
    """Return the folder of a mirror, with Google Drive mounted if it is there; "" for none.

    Args:
        mirror: A folder, "auto" or "": see `HostedStudy`.
    """
    is_colab = _has_module("google.colab")
    if mirror == "auto":
        mirror = str(_DRIVE / "MyDrive" / "autotune") if is_colab else ""
    if not is_colab or not Path(mirror).is_relative_to(_DRIVE) or os.path.ismount(_DRIVE):
        return mirror

    try:
        # By force, since a connection that has broken is still mounted, and answers nothing (errno 107).
        importlib.import_module("google.colab.drive").mount(str(_DRIVE), force_remount=True)
    except Exception as error:  # noqa: BLE001 - whatever keeps Drive away must not keep the study from running
        print(f"Google Drive is not mounted ({error}): without it, what is done is lost with this machine")
        return ""
    return mirror


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _folder() -> Path:
    """Return the folder that commands run in: a checkout's own, from any folder within it."""
    here = Path.cwd()
    return _ROOT if here.is_relative_to(_ROOT) else here


class _Ended(NamedTuple):
    """A command that has ended.

    Args:
        code: Its exit code.
        text: What it has printed.
    """

    code: int
    text: str


def _streamed(arguments: Sequence[str]) -> _Ended:
    """Run a command and print its lines as they come; an interrupt of the kernel is passed on to it."""
    # In a session of its own it is interrupted once, whatever the kernel's host signals. If the kernel dies, it parks.
    process = subprocess.Popen(
        arguments,
        cwd=_folder(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        preexec_fn=functools.partial(end_with_parent, signal.SIGINT),
    )
    assert process.stdout is not None
    lines = []
    with process:
        while True:
            try:
                for line in process.stdout:
                    print(line, end="", flush=True)
                    lines.append(line)
                break
            except KeyboardInterrupt:
                os.killpg(process.pid, signal.SIGINT)

    if process.returncode not in (0, _PARKED):
        print(f"{shlex.join(arguments)} has ended with exit code {process.returncode}")
    return _Ended(process.returncode, "".join(lines))
