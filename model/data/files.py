"""Files that a path names, and reading them, compressed or not."""

import bz2
import contextlib
import glob
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from model.data.errors import CorpusError

_MAGICS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""First bytes of compressed files, and what opens them."""
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ARCHIVE_MAGICS = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"%PDF": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an office document",
}
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of compressed files, behind the suffix that says what they hold."""
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What reading a file, or what is compressed in it, may raise."""


def find_files(path: str, setting: str = "data.path") -> list[Path]:
    """Return the files that a path names, in order.

    Args:
        path: A file, a folder (of which all files count that are not hidden, at any depth) or a glob. What exists
            under its literal name is taken for that, whatever characters it has.
        setting: The setting that the path comes from, for the message.

    Raises:
        CorpusError: There are none, or they cannot be looked at.
    """
    try:
        files = _find(Path(path).expanduser())
    except (OSError, ValueError, RuntimeError) as error:  # no right to look, a name too long, no such home
        raise CorpusError(f'{setting} = "{path}" cannot be looked at: {_reason(error)}', setting) from None

    if not files:
        raise CorpusError(
            f'no file at "{path}" ({setting}); give a file, a folder with files, or a glob',
            setting,
        )
    return sorted(files)


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]

    if path.is_dir():
        candidates = [file for file in path.rglob("*") if not _is_hidden(file.relative_to(path))]
    else:
        folder, pattern = _split_pattern(path)
        candidates = [folder / match for match in glob.glob(pattern, root_dir=folder, recursive=True)]
    return [file for file in candidates if file.is_file()]


def _split_pattern(path: Path) -> tuple[Path, str]:
    """Return the longest beginning of a glob that is a folder under its literal name, and the rest of it."""
    folder = Path(path.anchor)
    parts = path.parts[1:] if path.anchor else path.parts

    for number, part in enumerate(parts):
        if not (folder / part).is_dir():
            return folder, str(Path(*parts[number:]))
        folder /= part
    return folder, ""


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def file_identity(files: list[Path]) -> tuple[str, ...]:
    """Return strings that change when a file is replaced or edited."""
    stats = [(file.resolve(), file.stat()) for file in files]
    return tuple(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for its bytes, uncompressed, whatever its name is.

    Args:
        path: A file; gzip, bzip2, xz and zstandard are known by their first bytes.

    Raises:
        CorpusError: It cannot be read, then or later in the block.
    """
    try:
        with _open(path) as file:
            yield file
    except Exception as error:
        # The errors of pyarrow are known by name alone, since it is imported only where it is needed.
        if isinstance(error, _UNREADABLE) or type(error).__name__ == "ArrowInvalid":
            raise CorpusError(f"{path} cannot be read: {_reason(error)}", "data.path") from None
        raise


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(8)

    for magic, open_compressed in _MAGICS.items():
        if start.startswith(magic):
            opened_file: IO[bytes] = open_compressed(path, "rb")
            return opened_file
    if start.startswith(_ZSTD_MAGIC):
        return _open_zstd(path)
    for magic, kind in _ARCHIVE_MAGICS.items():
        if start.startswith(magic):
            raise CorpusError(f"{path} is {kind}; give the text files themselves", "data.path")
    return path.open("rb")


def _open_zstd(path: Path) -> IO[bytes]:
    import pyarrow as pa

    stream: Any = pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd")
    return io.BufferedReader(stream, 2**20)


def _reason(error: Exception) -> str:
    """Return why something failed, without the path that the message has already named."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def place(path: Path, row: int) -> str:
    """Return where a row lies, for a message; rows are counted from 1."""
    return f"{path}:{row}"
