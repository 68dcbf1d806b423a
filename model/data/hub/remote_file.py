"""A file of the hub, or of this machine, read in small parts, each of which is tried again where the network fails."""

import io
import time
from typing import Any

from model.data.hub.errors import in_short, passes_by_itself
from model.data.progress import Hears

_FIRST_PART_BYTES = 2**18
_LEAST_PART_BYTES = 2**18
_MOST_PART_BYTES = 2**23
"""Bytes of one request. Each part that has come is heard of; one that is cut off is asked for again, but smaller."""
_PART_S = 2.0
"""What one request is to take, in seconds."""
PATIENCE_S = 600.0
"""Longest time without a byte, in seconds, before a reading is given up: twice the window of the hub's rate limits."""


class RemoteFile(io.RawIOBase):
    """A file that can be read at any place.

    Args:
        address: hf://datasets/NAME@COMMIT/PATH, or a local path.
        heard: Hears of every part.
    """

    def __init__(self, address: str, heard: Hears) -> None:
        import fsspec

        self._heard = heard
        filesystem, path = fsspec.core.url_to_fs(address)
        # Without a cache each read is one request for just these bytes.
        options = {} if "file" in filesystem.protocol else {"cache_type": "none"}
        self._file: Any = filesystem.open(path, "rb", **options)
        self._size_bytes = int(filesystem.size(path))
        self._place = 0
        self._part_bytes = _FIRST_PART_BYTES

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size_bytes}[whence]
        self._place = max(0, origin + offset)
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """Return all bytes asked for; fewer at the end of the file alone.

        Args:
            size: Bytes to read; all that are left if negative.
        """
        left = max(0, self._size_bytes - self._place)
        wanted = left if size is None or size < 0 else min(size, left)
        parts = []
        while wanted:
            part = self._read_part(min(wanted, self._part_bytes))
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, and return how many bytes were read."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()

    def _read_part(self, size: int) -> bytes:
        """Return the next bytes, at least one and at most `size`, however often that has to be tried."""
        began_s = asked_s = time.monotonic()
        while True:
            try:
                self._file.seek(self._place)
                part: bytes = self._file.read(size)
                break
            except Exception as error:
                waited_s = time.monotonic() - began_s
                if not passes_by_itself(error) or waited_s > PATIENCE_S:
                    raise
                # The library itself has tried it several times by now, and has waited between.
                self._heard.held_up(f"no answer for {waited_s:.0f} s ({in_short(error)}), trying again")
                size = min(size, max(_LEAST_PART_BYTES, size // 4))
                asked_s = time.monotonic()

        if not part:
            raise EOFError(f"the file ends at byte {self._place} of {self._size_bytes}")
        self._place += len(part)
        self._heard.fetched(len(part))

        pace = len(part) / max(1e-6, time.monotonic() - asked_s)
        self._part_bytes = int(min(_MOST_PART_BYTES, max(_LEAST_PART_BYTES, pace * _PART_S)))
        return part
