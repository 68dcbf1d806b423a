"""Contents of files in a mirror: each is written once, under its hash, and read back."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from autotune.store.mirror import CHUNK_BYTES, Beat, Content, Mirror, TornError

_COMPRESSED_BYTES = 32 << 20
"""Larger files are weights, of which compression leaves nine tenths."""
_APPENDED = (".jsonl", ".txt", ".log")
"""Endings of files that only grow: of one that grows while it is copied, what was there before is sound."""


class MirroredFiles:
    """Copies files into a mirror, those that have changed since the last time.

    Args:
        mirror: The mirror.
        writer: A random name of this process.
        beat: Called after each piece of work; may raise to end it.
    """

    written_bytes = 0
    """What was written since `begin`."""

    def __init__(self, mirror: Mirror, writer: str, beat: Beat) -> None:
        self._mirror = mirror
        self._writer = writer
        self._beat = beat
        self._copied: dict[str, tuple[tuple[int, ...], Content]] = {}
        self._verified: set[str] = set()
        self._known: dict[str, Content] = {}

    def begin(self, known: Mapping[str, Content]) -> None:
        """Begin a snapshot.

        Args:
            known: What the mirror's snapshots name, by hash.
        """
        self.written_bytes = 0
        self._known = dict(known)

    def copy(self, path: Path, name: str) -> Content | None:
        """Return what a file holds, once the mirror has it; of one that is being rewritten, what it was before.

        Args:
            path: The file.
            name: What it is known by from snapshot to snapshot; "" for one that is always new.

        Returns:
            None if there is nothing of it that is whole.
        """
        before = self._copied.get(name)
        try:
            with path.open("rb") as file:
                stamp = _stamp(file)
                content = before[1] if before and before[0] == stamp else self._hashed(file)
                if not self._has(content):
                    content = self._store(file, content)
                is_sound = _stamp(file) == stamp or path.suffix in _APPENDED
        except (FileNotFoundError, _ChangedError):
            is_sound = False

        if not is_sound:
            return before[1] if before and path.exists() and self._has(before[1]) else None
        self._copied[name] = (stamp, content)
        return content

    def _hashed(self, file: BinaryIO) -> Content:
        size, modified_s = os.fstat(file.fileno()).st_size, os.fstat(file.fileno()).st_mtime
        digest = hashlib.sha256()
        for piece in self._read(file, size):
            digest.update(piece)
        sha256 = digest.hexdigest()
        known = self._known.get(sha256)
        if known is not None:
            return Content(sha256, size, known.stored_bytes, known.is_compressed, modified_s)
        return Content(sha256, size, 0, size <= _COMPRESSED_BYTES, modified_s)

    def _read(self, file: BinaryIO, size: int) -> Iterator[bytes]:
        """Yield the first bytes of a file that may grow meanwhile."""
        file.seek(0)
        left = size
        while left:
            piece = file.read(min(CHUNK_BYTES, left))
            if not piece:
                raise _ChangedError
            left -= len(piece)
            yield piece
            self._beat()

    def _has(self, content: Content) -> bool:
        """Return whether the mirror holds a content: in its full size, and read once to its end by this process."""
        if not content.stored_bytes or not self._mirror.has(content):
            return False
        if content.sha256 not in self._verified:
            if not self._mirror.is_whole(content, self._beat):
                return False
            self._verified.add(content.sha256)
        return True

    def _store(self, file: BinaryIO, content: Content) -> Content:
        """Write a file's content into the mirror, and read it back.

        Raises:
            TornError: If the drive gives back something else than it was given.
        """
        packer = zlib.compressobj(6) if content.is_compressed else None
        digest = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            for piece in self._read(file, content.size_bytes):
                digest.update(piece)
                yield packer.compress(piece) if packer else piece
            if packer:
                yield packer.flush()
            if digest.hexdigest() != content.sha256:
                raise _ChangedError

        stored_bytes = self.write(self._mirror.object(content.sha256), pieces())
        stored = Content(content.sha256, content.size_bytes, stored_bytes, content.is_compressed, content.modified_s)
        self._verified.discard(content.sha256)
        self._known[content.sha256] = stored
        if not self._has(stored):
            raise TornError("the drive does not give back what was written")
        return stored

    def write(self, path: Path, pieces: Iterable[bytes]) -> int:
        """Write a file of the mirror under another name first, and return its size."""
        for folder in reversed([path.parent, *path.parent.parents]):
            if folder.is_relative_to(self._mirror.root):
                folder.mkdir(exist_ok=True)

        temporary = path.with_name(f".{path.name}.{self._writer}.tmp")
        size = 0
        try:
            with temporary.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                    size += len(piece)
                    self.written_bytes += len(piece)
                    self._beat()
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        return size


class _ChangedError(Exception):
    """A file was rewritten while it was copied."""


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return (status.st_size, status.st_mtime_ns, status.st_ino)
