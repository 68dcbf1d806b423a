"""The process that reads and writes a mirror, so that a drive that hangs holds up nothing else.

A write that hangs in the kernel cannot be interrupted, and a thread in one keeps its whole process from ending. This
process may be left behind: it is told what to do by its arguments, says what it does in lines of JSON, and ends with
its standard input. It is started as `python -m autotune.progress.mirror_process adopt|keep RUN_DIRECTORY FOLDER`, or
with `share|fetch RUN_DIRECTORY URL NAME BEGUN` for the place that a study's machines share.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotune.core.disk_faults import explain_os_error
from autotune.core.errors import UserError
from autotune.store.adoption import adopt
from autotune.store.mirror import LeftError, TornError
from autotune.store.run_directory import RunDirectory
from autotune.store.shared_files import SharedFiles
from autotune.store.snapshots import Snapshots, YieldedError

FINISH = "finish"
"""The line that asks for a last snapshot."""
_BEAT_EVERY_S = 1.0
_RETRY_S = 60.0
"""Seconds after a failure until it is tried again, if snapshots are not due sooner."""


class Voice:
    """What this process says and hears."""

    def __init__(self) -> None:
        self.is_last = False
        self._beaten = time.monotonic()

    def tell(self, **message: Any) -> None:
        """Say something in a line of JSON."""
        self._beaten = time.monotonic()
        try:
            print(json.dumps(message), flush=True)
        except OSError:
            raise LeftError from None

    def beat(self) -> None:
        """Give a sign of life, and end what is done if nobody is there to hear it."""
        if time.monotonic() - self._beaten >= _BEAT_EVERY_S:
            self.tell(beat=True)
        self.listen(0.0)

    def listen(self, seconds: float) -> None:
        """Wait for an order, for some seconds at most.

        Raises:
            LeftError: If nobody is left to give one.
        """
        if self.is_last or not select.select([sys.stdin], [], [], max(0.0, seconds))[0]:
            return
        if FINISH not in os.read(sys.stdin.fileno(), 4096).decode():
            raise LeftError
        self.is_last = True


def keep(run: RunDirectory, folder: Path, every_s: float, voice: Voice) -> None:
    """Take snapshots until the end is asked for, and a last one then.

    Args:
        run: The run directory.
        folder: The mirror's folder.
        every_s: Seconds between two of them.
        voice: Tells what comes of each.
    """
    snapshots = Snapshots(run, folder, secrets.token_hex(4), voice.beat)

    def take() -> None:
        taken = snapshots.take()
        if taken is not None:
            voice.tell(
                taken=taken.manifest.generation,
                is_new=taken.is_new,
                taken_s=taken.manifest.taken_s,
                trials=taken.manifest.done.trials,
                written_bytes=taken.written_bytes,
                seconds=taken.seconds,
            )

    _again_and_again(take, every_s, voice)


def share(files: SharedFiles, every_s: float, voice: Voice) -> None:
    """Put a study's files where all of its machines reach them until the end is asked for, and once more then.

    Args:
        files: The files.
        every_s: Seconds between two times.
        voice: Tells what comes of each.
    """

    def take() -> None:
        began = time.monotonic()
        written = files.take()
        now_s, seconds = time.time(), time.monotonic() - began
        voice.tell(taken=0, is_new=written > 0, taken_s=now_s, written_bytes=written, seconds=seconds)

    _again_and_again(take, every_s, voice)


def _again_and_again(take: Callable[[], None], every_s: float, voice: Voice) -> None:
    while True:
        is_last = voice.is_last
        try:
            voice.tell(beat=True)
            wait_s = every_s
            take()
        except YieldedError as error:
            voice.tell(yielded=str(error))
            return
        except (OSError, sqlite3.Error, UserError, TornError) as error:
            wait_s = min(every_s, _RETRY_S)
            voice.tell(failed=_reason(error))

        if is_last:
            return
        voice.listen(wait_s)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error)


def _adopt(run: RunDirectory, folder: Path, voice: Voice) -> None:
    try:
        is_adopted = adopt(run, folder, lambda line: voice.tell(said=line), voice.beat)
        voice.tell(adopted=is_adopted)
    except UserError as error:
        voice.tell(refused=str(error), exit_code=error.exit_code)
    except OSError as error:
        voice.tell(failed=str(explain_os_error(error, folder)))


def _fetch(files: SharedFiles, folder: str, voice: Voice) -> None:
    try:
        voice.tell(fetched=files.fetch_run(folder))
    except OSError as error:
        voice.tell(failed=_reason(error))


def main() -> None:
    """Do what the arguments say."""
    verb, root, folder, *more = sys.argv[1:]
    # The training's host may have two cores.
    with contextlib.suppress(OSError):
        os.nice(10)

    voice = Voice()
    with contextlib.suppress(LeftError):
        run = RunDirectory(Path(root))
        if verb == "adopt":
            _adopt(run, Path(folder), voice)
        elif verb == "keep":
            keep(run, Path(folder), float(more[0]), voice)
        elif verb == "share":
            share(SharedFiles(run, folder, more[0], more[1], voice.beat), float(more[2]), voice)
        else:
            _fetch(SharedFiles(run, folder, more[0], more[1], voice.beat), more[2], voice)


if __name__ == "__main__":
    main()
