"""Batches of a dataset, read in a thread of their own, so that bytes come while others are tokenised."""

import queue
import threading
from collections.abc import Iterator

from model.config import DataConfig
from model.data.hub.rows import Batch, Place, read_batches
from model.data.hub.shards import Shards
from model.data.progress import Hears

_WAITING_BATCHES = 8
"""Batches that may wait for the tokenizer, 4 MB each."""


class Reader:
    """Reads batches ahead; a context manager.

    Args:
        shards: The files.
        config: Says which field is the text.
        start: The first row.
        heard: Hears of every byte.
    """

    def __init__(self, shards: Shards, config: DataConfig, start: Place, heard: Hears) -> None:
        self._is_over = threading.Event()
        self._batches = read_batches(shards, config, start, _WhileAwaited(heard, self._is_over))
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(_WAITING_BATCHES)
        # A daemon: a read that hangs must not keep the process.
        self._thread = threading.Thread(target=self._read, name="hub reader", daemon=True)

    def __enter__(self) -> Iterator[Batch]:
        self._thread.start()
        return self._received()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(timeout=5)

    def _received(self) -> Iterator[Batch]:
        while (batch := self._queue.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch

    def _read(self) -> None:
        try:
            for batch in self._batches:
                if not self._put(batch):
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the other thread raises it
            self._put(error)

    def _put(self, batch: Batch | BaseException | None) -> bool:
        """Hand a batch over, and return False if nobody waits for it any more."""
        while not self._is_over.is_set():
            try:
                self._queue.put(batch, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False


class _WhileAwaited:
    """Passes on what a reading thread has to say, and ends the reading once nobody waits for it.

    Args:
        heard: Hears it.
        is_over: Whether nobody waits any more.
    """

    def __init__(self, heard: Hears, is_over: threading.Event) -> None:
        self._heard = heard
        self._is_over = is_over

    def fetched(self, size_bytes: int) -> None:
        """Count bytes that came."""
        self._check()
        self._heard.fetched(size_bytes)

    def held_up(self, why: str) -> None:
        """Say what keeps the bytes from coming."""
        self._check()
        self._heard.held_up(why)

    def _check(self) -> None:
        if self._is_over.is_set():
            raise InterruptedError("there is enough")
