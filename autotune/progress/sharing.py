"""A study's files in the place that its machines share, as its run sees it: see `store/shared_files.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autotune.core.text import in_bytes
from autotune.progress.mirroring import SILENCE_S, Attendant, Mirroring
from autotune.store.run_directory import RunDirectory
from autotune.store.shared_files import require_reachable

_EVERY_S = 20.0
"""Seconds between two looks at what has changed."""
_BEAT_S = 1.0


class Sharing(Mirroring):
    """Puts the files of one study into a shared place while it runs, and fetches what others have put there.

    Args:
        url: A folder or an fsspec URL.
        name: The study's name.
        begun: When it was begun, ISO 8601.
        say: Takes a line for a person.

    Raises:
        UserError: If the place cannot be used.
    """

    _name = "the shared place"

    def __init__(self, url: str, name: str, begun: str, say: Callable[[str], None]) -> None:
        require_reachable(url)
        super().__init__(Path(), _EVERY_S, say)
        self._url = url
        self._study = (name, begun)
        self._where = f"{url.rstrip('/')}/{name}"

    def start(self, run: RunDirectory) -> None:
        """Begin to put files there."""
        self._process = Attendant("share", run.root, self._url, *self._study, str(self._every_s))

    def fetch(self, run: RunDirectory, folder: str, beat: Callable[[], None]) -> str:
        """Fetch a full run that another machine has trained last, so that it goes on from its last checkpoint.

        Args:
            run: The run directory.
            folder: The full run's folder, relative to it.
            beat: Called once a second meanwhile.

        Returns:
            What there is to say of it, "" for nothing.
        """
        process = Attendant("fetch", run.root, self._url, *self._study, folder)
        fault = f"it has not answered for {SILENCE_S:.0f} s"
        try:
            while not process.has_ended and not process.is_silent(SILENCE_S):
                beat()
                message = process.next_message(_BEAT_S)
                if message is not None and message.get("fetched"):
                    return f"{in_bytes(message['fetched'])} of this run were fetched from {self._where}"
                if message is not None and "fetched" in message:
                    return ""
                if message is not None and "failed" in message:
                    fault = str(message["failed"])
                    break
        finally:
            process.end()
        return f"{self._name} {self._where} cannot be read: {fault}; the run goes on from what is in {run.root}"

    def _outcome(self, is_whole: bool, why: str) -> str:
        if is_whole:
            return f"the files are in {self._where}: {in_bytes(self._written_bytes)} written"
        return f"not all files are in {self._where} ({why}): what is missing lies on this machine alone"

    def _beginning(self, has_failed: bool) -> str:
        again = " again" if has_failed else ""
        return f"the files go to {self._where}{again}"
