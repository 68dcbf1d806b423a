"""A study's mirror as its run sees it: a process beside it that copies, whose faults are told and cost nothing else."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotune.core.errors import UserError
from autotune.core.text import duration, in_bytes, moment
from autotune.progress.mirror_process import FINISH
from autotune.store.run_directory import RunDirectory

SILENCE_S = 60.0
"""Seconds without a sign of life after which the drive is not waited for, at the start and at the end."""
_LAST_S = 600.0
"""Most seconds that the last snapshot may take."""
_SILENT_S = 300.0
"""Seconds without a sign of life, in the midst of a snapshot, after which that is told."""


class Mirroring:
    """Keeps a mirror of one study while it runs.

    Args:
        folder: The mirror's folder, in which each study has one of its name.
        every_s: Seconds between two snapshots.
        say: Takes a line for a person.
    """

    _name = "the mirror"

    def __init__(self, folder: Path, every_s: float, say: Callable[[str], None] = lambda line: None) -> None:
        self.folder = folder.absolute()
        self._every_s = every_s
        self._say = say
        self._asked: Path | None = None
        self._process: Attendant | None = None
        self._where = ""
        self._fault = ""
        self._has_worked = False
        self._is_over = False
        self._last_taken_s = 0.0
        self._snapshots = 0
        self._written_bytes = 0
        self.longest_s = 0.0
        """What the longest snapshot took, in seconds."""

    def adopt(self, run: RunDirectory) -> None:
        """Go on from the mirror, if it holds a later state of a study than its run directory.

        Args:
            run: The run directory, which need not exist.

        Raises:
            UserError: If the mirror cannot be used, or cannot be read where there is no study here: one might be begun
                anew that has been going on for nights.
        """
        if self._asked == run.root:
            return

        self._asked = run.root
        process = Attendant("adopt", run.root, self.folder)
        fault = f"it has not answered for {SILENCE_S:.0f} s"
        try:
            while (message := process.next_message(SILENCE_S)) is not None:
                if "said" in message:
                    self._say(message["said"])
                elif "refused" in message:
                    raise UserError(message["refused"], message["exit_code"])
                elif "adopted" in message:
                    return
                elif "failed" in message:
                    fault = message["failed"]
                    break
        finally:
            process.end()

        where = self.folder / run.name
        if not run.spec.exists():
            raise UserError(
                f"the mirror {where} cannot be read, so nobody knows whether this study was begun before: {fault}; "
                "run again when the drive is back, or without --mirror to begin anew",
                3,
            )
        self._say(f"the mirror {where} cannot be read: {fault}; going on with what is in {run.root}")

    def start(self, run: RunDirectory) -> None:
        """Begin to take snapshots of a study that is stored."""
        self._where = str(self.folder / run.name)
        self._process = Attendant("keep", run.root, self.folder, str(self._every_s))

    def news(self) -> list[str]:
        """Return what there is to say since it was last asked: when it begins to fail, and when it works again."""
        process = self._process
        if process is None or self._is_over:
            return []

        told = []
        for message in process.messages():
            told += self._take(message)
        if not self._is_over and process.has_ended:
            told += self._end("its process has ended")
        elif not self._fault and process.is_silent(max(_SILENT_S, 2 * self._every_s)):
            told += self._fail(f"it has not answered for {duration(max(_SILENT_S, 2 * self._every_s))}")
        return told

    def finish(self) -> list[str]:
        """Have a last snapshot taken, wait for it as long as the drive answers, and return what there is to say of it.

        What hangs is left behind: it holds nothing that this process needs to end.
        """
        process = self._process
        if process is None:
            return []

        self._process = None
        if self._is_over:
            process.end()
            return []

        told = []
        asked_s = time.time()
        process.ask(FINISH)
        end = time.monotonic() + _LAST_S
        try:
            while (left := end - time.monotonic()) > 0:
                message = process.next_message(min(SILENCE_S, left))
                if message is None:
                    break
                self._take(message)
                told += [message["yielded"]] if "yielded" in message else []
        finally:
            process.end()

        if self._is_over:
            return told
        # One that began before the last order may have missed what came after it.
        is_whole = process.exit_code == 0 and not self._fault
        why = self._fault or f"it has not answered for {duration(time.time() - asked_s)}"
        return [*told, self._outcome(is_whole, why)]

    def _outcome(self, is_whole: bool, why: str) -> str:
        """Return what there is to say at the end.

        Args:
            is_whole: Whether all that there is was written.
            why: Why not, if it was not.
        """
        if is_whole:
            count = "1 snapshot" if self._snapshots == 1 else f"{self._snapshots} snapshots"
            return f"mirrored to {self._where}: {count}, {in_bytes(self._written_bytes)} written"
        if self._last_taken_s:
            return (
                f"the last snapshot could not be written ({why}); the newest in {self._where} is that of "
                f"{moment(self._last_taken_s)}"
            )
        return f"there is no snapshot of this run in {self._where} ({self._fault or 'it has not answered'})"

    def _beginning(self, has_failed: bool) -> str:
        """Return what is said when it works, at first or again.

        Args:
            has_failed: Whether it was said before that it does not.
        """
        if has_failed:
            return f"the mirror {self._where} works again: the snapshot of {moment(self._last_taken_s)} is in it"
        return f"mirrored to {self._where}: the first snapshot is in it"

    def _take(self, message: dict[str, Any]) -> list[str]:
        if "failed" in message:
            return self._fail(str(message["failed"]))
        if "yielded" in message:
            self._is_over = True
            return [str(message["yielded"])]
        if "taken" not in message:
            return []

        self._last_taken_s = float(message["taken_s"])
        self._snapshots += bool(message["is_new"])
        self._written_bytes += int(message["written_bytes"])
        self.longest_s = max(self.longest_s, float(message["seconds"]))
        told = []
        if self._fault or not self._has_worked:
            told.append(self._beginning(bool(self._fault)))
        self._fault, self._has_worked = "", True
        return told

    def _fail(self, why: str) -> list[str]:
        # Once, whatever it says then: an unsteady drive finds many words.
        is_new, self._fault = not self._fault, why
        if not is_new:
            return []
        return [f"{self._name} {self._where} cannot be written: {why}; the study goes on, and it is tried again"]

    def _end(self, why: str) -> list[str]:
        self._is_over = True
        return [f"{self._name} {self._where} is no longer kept: {why}; the study goes on without it"]


class Attendant:
    """The process that reads and writes another disk, and the thread that hears it."""

    def __init__(self, verb: str, root: Path, *arguments: str | Path) -> None:
        # -P: what lies in the present folder must not stand in for a package.
        command = [sys.executable, "-P", "-m", "autotune.progress.mirror_process", verb, str(root.absolute())]
        self._process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the night; this ends with its input
        )
        self._heard = time.monotonic()
        self._is_at_work = True
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._hear, daemon=True, name="mirror")
        self._thread.start()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stdout:
                self._heard = time.monotonic()
                message = json.loads(line)
                self._is_at_work = "beat" in message
                if not self._is_at_work:
                    self._messages.put(message)
        self._messages.put(None)

    def messages(self) -> list[dict[str, Any]]:
        """Return what it has said since it was last asked, signs of life left out."""
        said = []
        with contextlib.suppress(queue.Empty):
            while (message := self._messages.get_nowait()) is not None:
                said.append(message)
        return said

    def next_message(self, silence_s: float) -> dict[str, Any] | None:
        """Wait for what it says next, as long as it gives signs of life.

        Args:
            silence_s: Seconds without one after which it is not waited for.

        Returns:
            None if it has ended, or is silent.
        """
        asked = time.monotonic()
        while time.monotonic() - max(self._heard, asked) < silence_s and not self.has_ended:
            with contextlib.suppress(queue.Empty):
                return self._messages.get(timeout=min(1.0, silence_s))

        with contextlib.suppress(queue.Empty):
            return self._messages.get_nowait()
        return None

    def is_silent(self, seconds: float) -> bool:
        """Return whether it has given no sign of life for some seconds, though it is in the midst of something."""
        return self._is_at_work and time.monotonic() - self._heard > seconds

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, and all that it said was heard."""
        return self._process.poll() is not None and not self._thread.is_alive()

    @property
    def exit_code(self) -> int | None:
        """How it ended; None if it was left behind."""
        return self._process.returncode

    def ask(self, order: str) -> None:
        """Give it an order; one that has ended takes none."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{order}\n".encode())
            self._process.stdin.flush()

    def end(self) -> None:
        """See to its end, and leave it behind if it hangs in the kernel."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2.0)

        self._thread.join(2.0)
        if not self._thread.is_alive():
            self._process.stdout.close()
