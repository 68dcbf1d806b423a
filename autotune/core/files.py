"""Files that a crash leaves readable: whole files are replaced at once, and lines are appended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from autotune.core.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a file at once: a reader, or a crash, meets either the old content or the new.

    Args:
        path: The file.
        text: Its whole content.
    """
    # A path may hold bytes that are no UTF-8, and a log half a character.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once, as `write_text` does.

    Args:
        path: The file.
        content: Its whole content.
    """
    try:
        _replace(path, content)
    except OSError as error:
        if error.errno is None:
            raise
        # The file is meant by whoever reads this, not the temporary one beside it.
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")

    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, or None if it is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON line, on a line of its own even after one that a crash has torn."""
    line = json.dumps(value, default=str).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)

    with path.open("a+b") as file:
        if _is_torn(file):
            line = b"\n" + line
        file.write(line)


def _is_torn(file: BinaryIO) -> bool:
    """Return whether the last line of a file, which is read to its end, has no newline."""
    if not file.tell():
        return False

    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a file; a torn last line, and what is no object, are left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []

    values: list[dict[str, Any]] = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict):
                values.append(value)
    return values


def nearest_existing(folder: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists (which may turn out to be a file)."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk where a folder is or will be."""
    return shutil.disk_usage(nearest_existing(folder)).free


def require_space(folder: Path, min_free_bytes: int) -> None:
    """Refuse to go on when the disk is nearly full.

    Raises:
        UserError: If fewer than `min_free_bytes` are free.
    """
    free = free_bytes(folder)
    if free < min_free_bytes:
        raise UserError(
            f"{free / 1e9:.1f} GB are left on the disk of {folder}, but {min_free_bytes / 1e9:.1f} GB must stay free; "
            "the study is parked and nothing is lost: free some space and run again",
            3,
        )


def now_iso() -> str:
    """Return the time now, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
