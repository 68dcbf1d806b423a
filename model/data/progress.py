"""What is heard of a text while it is prepared: how much is there, how fast it comes, and what holds it up."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

Say = Callable[[str], None]
"""Takes a sentence that says how far the preparation is; called with a newer one every few seconds."""

_EVERY_S = 2.0
"""Least seconds between two sentences."""
_PRINT_EVERY_S = 30.0
"""The same where they are printed."""
_UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))


class Hears(Protocol):
    """What a reader of files tells; see `Preparation`."""

    def fetched(self, size_bytes: int) -> None:
        """Count bytes that came from the network or a disk."""

    def held_up(self, why: str) -> None:
        """Say what keeps the bytes from coming, until the next ones come."""


class Preparation:
    """Counts what is prepared and says so; safe to be told from several threads.

    Args:
        say: Takes the sentences; None prints them.
    """

    def __init__(self, say: Say | None = None) -> None:
        self._say = say or (lambda sentence: print(sentence, file=sys.stderr, flush=True))
        self._every_s = _EVERY_S if say else _PRINT_EVERY_S
        self._lock = threading.Lock()
        self._said_s = 0.0
        self._what = ""
        self._begin("", 0, "", 0)

    def note(self, sentence: str) -> None:
        """Say something at once."""
        with self._lock:
            self._what = sentence
            self._speak(sentence)

    def begin(self, what: str, wanted: int, unit: str, there: int = 0) -> None:
        """Begin to count.

        Args:
            what: What is done, as the beginning of a sentence: "fetching org/name".
            wanted: How much there will be in the end, about.
            unit: "tokens" or "bytes of text".
            there: How much an earlier attempt has left.
        """
        with self._lock:
            self._begin(what, wanted, unit, there)
            self._speak(self._words())

    def fetched(self, size_bytes: int) -> None:
        """Count bytes that came from the network or a disk."""
        with self._lock:
            self._fetched_bytes += size_bytes
            self._speak_if_due()

    def prepared(self, count: int) -> None:
        """Count tokens, or bytes of text, that are prepared for good."""
        with self._lock:
            self._there += count
            self._speak_if_due()

    def held_up(self, why: str) -> None:
        """Say what keeps the bytes from coming, until the next ones come."""
        with self._lock:
            self._speak(f"{self._words()}; {why}")

    def close(self) -> None:
        """Say nothing more, whoever has something to say."""
        with self._lock:
            self._say = lambda sentence: None

    def _begin(self, what: str, wanted: int, unit: str, there: int) -> None:
        self._what = what
        self._wanted = wanted
        self._unit = unit
        self._there = there
        self._before = there
        self._fetched_bytes = 0
        self._began_s = time.monotonic()

    def _speak_if_due(self) -> None:
        if time.monotonic() - self._said_s >= self._every_s:
            self._speak(self._words())

    def _speak(self, sentence: str) -> None:
        self._said_s = time.monotonic()
        self._say(sentence)

    def _words(self) -> str:
        if not self._wanted:
            return self._what

        passed_s = max(1e-9, time.monotonic() - self._began_s)
        done_frac = min(1.0, self._there / self._wanted)
        words = f"{self._what}: {_short(self._there)} of {_short(self._wanted)} {self._unit} ({done_frac:.0%})"
        if self._fetched_bytes:
            speed = self._fetched_bytes / 1e6 / passed_s
            words += f", {self._fetched_bytes / 1e6:.1f} MB fetched at {speed:.2g} MB/s"

        # At the pace of this attempt; what an earlier one has left took no time of it.
        gained = self._there - self._before
        if gained and done_frac < 1:
            words += f", about {_duration(passed_s * (self._wanted - self._there) / gained)} left"
        return words


@contextmanager
def locked(path: Path, heard: Preparation) -> Iterator[None]:
    """Hold a lock while the block runs, and say so as long as another process holds it.

    Args:
        path: The lock's file.
        heard: Says it.
    """
    lock = FileLock(path, timeout=_EVERY_S)
    while True:
        try:
            lock.acquire()
            break
        except Timeout:
            heard.note("waiting for another process, which prepares the same text")

    try:
        yield
    finally:
        lock.release()


def _short(count: int) -> str:
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
