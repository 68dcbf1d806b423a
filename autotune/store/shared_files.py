"""The files of a study in a place that all of its machines reach, `artifacts` of the study file: any fsspec URL.

    NAME/trials/0007/...      as in a run directory: trials/, finals/, bracket/, full/, best_config.toml
    NAME/full/RUN/.writer     who wrote there last
    NAME/.study               when the study began that it belongs to
    NAME/machines/ID/...      what each run directory has of its own: events, the GPU's samples, the hardware

Nothing is decided here: what is true of a study is in its database. A file is put there whole, and a checkpoint is
checked by whoever reads it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from autotune.core.errors import UserError
from autotune.core.files import read_json, write_json
from autotune.store.mirror import CHUNK_BYTES, Beat, LeftError
from autotune.store.run_directory import MACHINES, RunDirectory, files_below

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_OWN = ("events.jsonl", "gpu.jsonl")
_PROFILES = "hardware"
"""Names of hardware profiles begin with this, and are a machine's own too."""
_FULL = "full"
_WRITER = ".writer"
_STUDY = ".study"
_ID = "machine.json"
# The study file may hold a password, and whoever reads a study has it.
_LEFT_OUT = (
    "study.toml", "spec.json", "set_aside", "report", "tensorboard", "holder.json", "options.json", "study.db",
    "study.db-wal", "study.db-shm", "study.backup.db", "study.backup-before.db", _ID, MACHINES,
)  # fmt: skip
_CHECKPOINTS = "checkpoints"


@contextlib.contextmanager
def _all_as_os_errors() -> Iterator[None]:
    """Raise errors of whatever package reaches the place as OSError: each has its own for a server that is away."""
    try:
        yield
    except (OSError, LeftError):
        raise
    except Exception as error:
        raise OSError(str(error) or type(error).__name__) from error


class SharedFiles:
    """The files of one study there, as one run directory sees them.

    Args:
        run: The run directory.
        url: The place, in which each study has a folder of its name.
        name: The study's name.
        begun: When it was begun, ISO 8601: two studies of one name differ in it; "" if that is not known.
        beat: Called after each piece of work; may raise LeftError to end it.

    Raises:
        UserError: If there is no such place, or no package that reaches it.
    """

    def __init__(self, run: RunDirectory, url: str, name: str, begun: str = "", beat: Beat = lambda: None) -> None:
        self._run = run
        self._beat = beat
        self._begun = begun
        self._is_own = not begun
        self._fs, root = _reached(url)
        self._root = f"{root.rstrip('/')}/{name}"
        self._began_s = time.time()
        self._sent: dict[str, tuple[int, int]] = {}
        self._written: set[str] = set()
        self._sizes: dict[str, int] | None = None

    @_all_as_os_errors()
    def take(self) -> int:
        """Put there what has changed since it was last called, and remove what was put there and is gone here.

        Returns:
            Bytes that were written.

        Raises:
            OSError: If the place or the disk fails.
        """
        self._require_own(is_written=True)
        if self._sizes is None:
            self._sizes = self._found("")
        self._fs.makedirs(self._root, exist_ok=True)

        written, there = 0, set()
        for path in files_below(self._run.root, _LEFT_OUT):
            name = path.relative_to(self._run.root).as_posix()
            there.add(name)
            written += self._put_if_changed(path, name)

        # A new checkpoint is there by now, so that the one before may go.
        for name in self._sent.keys() - there:
            self._remove(self._place_of(name))
            del self._sent[name]
        return written

    @_all_as_os_errors()
    def fetch_run(self, folder: str) -> int:
        """Fetch the files of a full run that another run directory has trained last.

        Args:
            folder: Its folder, relative to the run directory.

        Returns:
            Bytes that were fetched; 0 where this run directory's own files are the latest.

        Raises:
            OSError: If the place or the disk fails.
        """
        self._require_own()
        own = self._run.root / folder
        try:
            writer = json.loads(self._fs.cat_file(f"{self._root}/{folder}/{_WRITER}"))
        except (FileNotFoundError, ValueError):
            return 0
        if writer.get("id") == self._id() and own.is_dir() and any(own.iterdir()):
            return 0
        return sum(self._get(name, self._run.root / name) for name in self._found(folder) if not name.endswith(_WRITER))

    @_all_as_os_errors()
    def fetch_records(self) -> int:
        """Fetch what the page and a person need of other machines: all but what a full run weighs.

        Returns:
            Bytes that were fetched.

        Raises:
            OSError: If the place or the disk fails.
        """
        self._require_own()
        fetched = 0
        for name, size in self._found("").items():
            parts = PurePosixPath(name).parts
            target = self._run.root / name
            is_heavy = parts[0] == _FULL and (_CHECKPOINTS in parts or size > CHUNK_BYTES)
            is_own = parts[0] == MACHINES and parts[1:2] == (self._id(),)
            if is_heavy or is_own or parts[-1] == _WRITER:
                continue
            # What grows here is ahead of what was put there.
            if not target.exists() or (parts[0] == MACHINES and target.stat().st_size < size):
                fetched += self._get(name, target)
        return fetched

    def _require_own(self, is_written: bool = False) -> None:
        """Refuse the files of another study of this name: a full run would go on from its checkpoints.

        Args:
            is_written: Whether the place is this study's from now on if it is nobody's.

        Raises:
            OSError: If it is another study's: it is said and tried again like a place that is away.
        """
        if self._is_own:
            return
        place = f"{self._root}/{_STUDY}"
        try:
            stored = json.loads(self._fs.cat_file(place))
        except (FileNotFoundError, ValueError):
            if is_written:
                self._fs.makedirs(self._root, exist_ok=True)
                self._fs.pipe_file(place, json.dumps({"begun": self._begun}).encode())
        else:
            if stored.get("begun") != self._begun:
                raise OSError(
                    f"{self._root} holds the files of another study of this name, begun {stored.get('begun')}: name "
                    "another place, or move that folder away"
                )
        self._is_own = is_written

    def _put_if_changed(self, path: Path, name: str) -> int:
        try:
            status = path.stat()
            stamp = (status.st_size, status.st_mtime_ns)
            if self._sent.get(name) == stamp:
                return 0
            is_new = status.st_mtime >= self._began_s or name in self._sent
            if not is_new and not self._is_missing(name, status.st_size):
                return 0
            # First, so that no checkpoint lies there of which nobody knows whose it is.
            self._keep_writer(name)
            self._put(path, self._place_of(name))
        except FileNotFoundError:
            return 0  # gone meanwhile

        self._sent[name] = stamp
        return status.st_size

    def _is_missing(self, name: str, size: int) -> bool:
        """Return whether a file of an earlier process is to be put there; of a full run another may have gone on."""
        assert self._sizes is not None, "it was looked before"
        return not name.startswith(f"{_FULL}/") and self._sizes.get(self._place_of(name)) != size

    def _place_of(self, name: str) -> str:
        return f"{MACHINES}/{self._id()}/{name}" if name in _OWN or name.startswith(_PROFILES) else name

    def _keep_writer(self, name: str) -> None:
        folder, _, file = name.removeprefix(f"{_FULL}/").partition("/")
        if not name.startswith(f"{_FULL}/") or folder in self._written:
            return
        # The files of an attempt are there before what it goes on from has been fetched.
        if file.partition("/")[0].isdigit():
            return
        self._written.add(folder)
        text = json.dumps({"id": self._id(), "host": socket.gethostname()})
        self._fs.makedirs(f"{self._root}/{_FULL}/{folder}", exist_ok=True)
        self._fs.pipe_file(f"{self._root}/{_FULL}/{folder}/{_WRITER}", text.encode())

    def _id(self) -> str:
        """Return a name for this run directory among those of all machines."""
        stored = read_json(self._run.root / _ID)
        if isinstance(stored, dict) and isinstance(stored.get("id"), str):
            return str(stored["id"])
        own = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        write_json(self._run.root / _ID, {"id": own})
        return own

    def _found(self, folder: str) -> dict[str, int]:
        """Return the sizes of the files there below a folder, by their names within the study's."""
        self._fs.invalidate_cache()
        try:
            found: dict[str, dict[str, Any]] = self._fs.find(f"{self._root}/{folder}".rstrip("/"), detail=True)
        except FileNotFoundError:
            return {}
        sizes = {path.removeprefix(f"{self._root}/"): int(each["size"] or 0) for path, each in found.items()}
        return {name: size for name, size in sizes.items() if _is_one_of_ours(name)}

    def _put(self, path: Path, name: str) -> None:
        place = f"{self._root}/{name}"
        self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
        if not _is_local(self._fs):
            self._fs.put_file(str(path), place, callback=_beating(self._beat))
            return

        # An object appears when it is whole; a file of a folder has to be renamed for it.
        temporary = f"{place}.{self._id()}.tmp"
        self._copy(path, Path(temporary))
        os.replace(temporary, place)

    def _get(self, name: str, target: Path) -> int:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        if _is_local(self._fs):
            self._copy(Path(f"{self._root}/{name}"), temporary)
        else:
            self._fs.get_file(f"{self._root}/{name}", str(temporary), callback=_beating(self._beat))
        os.replace(temporary, target)
        return target.stat().st_size

    def _copy(self, source: Path, target: Path) -> None:
        with source.open("rb") as reading, target.open("wb") as writing:
            while piece := reading.read(CHUNK_BYTES):
                writing.write(piece)
                self._beat()
            writing.flush()
            os.fsync(writing.fileno())

    def _remove(self, name: str) -> None:
        try:
            self._fs.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return


def require_reachable(url: str) -> None:
    """Refuse a place that cannot be used.

    Args:
        url: A folder or an fsspec URL.

    Raises:
        UserError: If no package here knows it, or the folder around it is missing.
    """
    fs, root = _reached(url)
    if not _is_local(fs):
        return
    folder = Path(root)
    if not folder.exists() and not folder.parent.exists():
        raise UserError(
            f"artifacts {url}: there is no folder {folder.parent}; is the drive mounted? Mount it, or name another "
            "folder"
        )
    if folder.is_file():
        raise UserError(f"artifacts {url} is a file; name a folder")


def _reached(url: str) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    try:
        fs, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"artifacts {url} cannot be reached: {error}", 3) from None
    return fs, str(root)


def _is_local(fs: AbstractFileSystem) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(fs, LocalFileSystem)


def _is_one_of_ours(name: str) -> bool:
    is_inside = ".." not in PurePosixPath(name).parts and not name.startswith("/")
    return is_inside and not name.endswith(".tmp") and name != _STUDY


def _beating(beat: Beat) -> Any:
    from fsspec.callbacks import Callback

    class Beating(Callback):  # type: ignore[misc]
        def call(self, *_: object, **__: object) -> None:
            beat()

    return Beating()
