"""Files that a crash cannot tear: whole files are replaced, lines appended."""

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
    """Writes a file so that a reader, and a crash, sees the old content or the new and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Writes a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file, or None if it is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Appends one JSON line, on a line of its own even after one that a crash has torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        start = b"\n" if _is_torn(file) else b""
        file.write(start + json.dumps(value, default=str).encode() + b"\n")


def _is_torn(file: BinaryIO) -> bool:
    """Whether a file that stands at its end lacks the end of its last line."""
    if not file.tell():
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the JSON lines of a file; a torn last line is left out."""
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def existing(folder: Path) -> Path:
    """Returns the folder itself, or the nearest one above it that exists (which may turn out to be a file)."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def free_bytes(folder: Path) -> int:
    """Returns the free disk where a folder is or will be."""
    return shutil.disk_usage(existing(folder)).free


def require_space(folder: Path, min_free_bytes: int) -> None:
    """Refuses to go on when the disk is nearly full.

    Raises:
        UserError: If fewer than `min_free_bytes` are free.
    """
    free = free_bytes(folder)
    if free < min_free_bytes:
        raise UserError(
            f"{free / 1e9:.1f} GB left on the disk of {folder}, {min_free_bytes / 1e9:.1f} GB are kept free; "
            "parked, nothing is lost: free some space and run again",
            3,
        )


def now_iso() -> str:
    """Returns the time now, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
