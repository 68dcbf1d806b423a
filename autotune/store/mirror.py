"""A study's mirror, `FOLDER/<study>/` on a drive that may fail: what lies there, and how a study is restored from it.

    objects/ab/abcd...              contents, each under its SHA-256, so that only what changed is written
    snapshots/00000012-1f3a.json    manifests: which contents make up the study at one moment

A manifest is written last and holds a hash of itself. A snapshot counts if its manifest is whole and every content that
it names has the hash that it is named by; nothing else that the drive says or promises is believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from pydantic import TypeAdapter, ValidationError

_FORMAT = 1
CHUNK_BYTES = 4 << 20
"""Bytes that are read or written at once."""
_HASH = re.compile(r"[0-9a-f]{64}")
_MANIFEST_NAME = re.compile(r"(\d{8,})-([0-9a-f]+)\.json")

Beat = Callable[[], None]
"""Called after each piece of work, as a sign that the drive still answers; raises LeftError to end it."""


class LeftError(Exception):
    """Nobody waits for the work any more."""


class TornError(Exception):
    """A snapshot, or a content of one, is not what was written; it says which and how."""


class Done(NamedTuple):
    """How much of a study is done. Neither number ever falls as a study goes on, also from a copy of it.

    Args:
        trials: Trials that ended, of all kinds.
        evaluations: Evaluations that are stored.
    """

    trials: int
    evaluations: int


@dataclass(frozen=True)
class Content:
    """One file of a snapshot.

    Args:
        sha256: Hash of what the file holds.
        size_bytes: Its size.
        stored_bytes: Size of the object that holds it.
        is_compressed: Whether that is compressed, by zlib.
        modified_s: When the file was changed last, seconds since 1970.
    """

    sha256: str
    size_bytes: int
    stored_bytes: int
    is_compressed: bool
    modified_s: float


@dataclass(frozen=True)
class Manifest:
    """A study at one moment.

    Args:
        generation: Counts the snapshots of a mirror; the newest has the highest.
        writer: The process that wrote it, by a random name.
        host: The machine that it ran on.
        taken_s: When, seconds since 1970.
        begun: When the study was begun, ISO 8601: two studies of one name differ in it.
        done: How much of the study was done.
        files: Contents by path within the run directory.
    """

    generation: int
    writer: str
    host: str
    taken_s: float
    begun: str
    done: Done
    files: Mapping[str, Content]

    @property
    def name(self) -> str:
        """The file that holds it."""
        return f"{self.generation:08d}-{self.writer}.json"

    @property
    def objects(self) -> dict[str, Content]:
        """Its contents by hash."""
        return {content.sha256: content for content in self.files.values()}

    def to_text(self) -> str:
        """Return it as JSON, with a hash of itself."""
        fields = {"format": _FORMAT, **asdict(self), "done": list(self.done)}
        return json.dumps({**fields, "sha256": _hash_of(fields)}) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Manifest:
        """Read it.

        Raises:
            TornError: If it is not what was written, or names files outside of the run directory.
        """
        try:
            fields = json.loads(text)
            if fields.pop("sha256") != _hash_of(fields) or fields.pop("format") != _FORMAT:
                raise TornError("its manifest is torn, or of another version")
            manifest = _ADAPTER.validate_python(fields)
        except (ValueError, KeyError, AttributeError, TypeError, ValidationError):
            raise TornError("its manifest is torn") from None

        if not all(_is_inside(path) and _HASH.fullmatch(each.sha256) for path, each in manifest.files.items()):
            raise TornError("its manifest names files outside of the study")
        return manifest


_ADAPTER = TypeAdapter(Manifest)


def _hash_of(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and not path.startswith("/") and "\0" not in path


class Mirror:
    """The mirror of one study.

    Args:
        root: `FOLDER/<study>`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.snapshots = root / "snapshots"

    def object(self, sha256: str) -> Path:
        """Return where a content lies."""
        return self.root / "objects" / sha256[:2] / sha256

    def manifests(self) -> tuple[list[Manifest], dict[str, str]]:
        """Return what manifests there are, the newest first, and what is wrong with others, by their names.

        Raises:
            OSError: If the drive fails.
        """
        whole, torn = [], {}
        for path in self._manifest_files():
            try:
                whole.append(Manifest.from_text(path.read_text(encoding="utf-8", errors="replace")))
            except TornError as error:
                torn[path.name] = str(error)
            except FileNotFoundError:
                continue  # removed meanwhile by whoever writes here
        return sorted(whole, key=lambda manifest: (manifest.generation, manifest.taken_s), reverse=True), torn

    def last_generation(self) -> int:
        """Return the highest generation that a manifest here is named by, torn ones included; 0 without any."""
        return max((int(path.name.partition("-")[0]) for path in self._manifest_files()), default=0)

    def _manifest_files(self) -> list[Path]:
        try:
            names = os.listdir(self.snapshots)
        except FileNotFoundError:
            return []
        return [self.snapshots / name for name in names if _MANIFEST_NAME.fullmatch(name)]

    def has(self, content: Content) -> bool:
        """Return whether an object lies there in its full size."""
        try:
            return self.object(content.sha256).stat().st_size == content.stored_bytes
        except FileNotFoundError:
            return False

    def read(self, content: Content) -> Iterator[bytes]:
        """Yield what an object holds, piece by piece, and hold it against its hash at the end.

        Raises:
            TornError: If it is missing or other than what was written.
            OSError: If the drive fails.
        """
        digest = hashlib.sha256()
        try:
            with self.object(content.sha256).open("rb") as file:
                for piece in _pieces(file, content.is_compressed):
                    digest.update(piece)
                    yield piece
        except FileNotFoundError:
            raise TornError("a content is missing") from None
        except zlib.error:
            raise TornError("a content is damaged") from None
        if digest.hexdigest() != content.sha256:
            raise TornError("a content is torn")

    def is_whole(self, content: Content, beat: Beat = lambda: None) -> bool:
        """Return whether an object holds what it was written with; it is read to its end."""
        try:
            for _ in self.read(content):
                beat()
        except TornError:
            return False
        return True

    def restore(self, manifest: Manifest, target: Path, beat: Beat = lambda: None) -> None:
        """Write the files of a snapshot into a folder, which is only there if all of them are whole.

        Args:
            manifest: The snapshot.
            target: A folder that is made; what is there already is removed.
            beat: Called after each piece.

        Raises:
            TornError: If a content is not what was written; it names the file.
            OSError: If the drive or the disk fails.
        """
        remove_folder(target)
        try:
            for name, content in sorted(manifest.files.items()):
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with path.open("wb") as file:
                        for piece in self.read(content):
                            file.write(piece)
                            beat()
                        file.flush()
                        os.fsync(file.fileno())
                except TornError as error:
                    raise TornError(f"{error} ({name})") from None
                os.utime(path, (content.modified_s, content.modified_s))
        except BaseException:
            remove_folder(target)
            raise


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _pieces(file: BinaryIO, is_compressed: bool) -> Iterator[bytes]:
    decompressor = zlib.decompressobj()
    while data := file.read(CHUNK_BYTES):
        if not is_compressed:
            yield data
            continue

        # In bounded pieces: a few bytes of a strange object may stand for gigabytes.
        while data:
            yield decompressor.decompress(data, CHUNK_BYTES)
            data = decompressor.unconsumed_tail
    if is_compressed:
        yield decompressor.flush()
