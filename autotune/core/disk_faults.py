"""Faults of a disk: full, read-only, not to be read or without locks. Each is told in a sentence with a way out."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from autotune.core.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = ("no space left on device", "disk quota exceeded", "os error 28", "os error 122", "disk is full")
"""Libraries that are not written in Python (safetensors, SQLite) tell the fault in their message alone."""
_TORN_WRITE = "PytorchStreamWriter failed writing file"
"""All that torch says of a disk that is full."""
_OF_THE_DISK = (errno.EROFS, errno.EIO, errno.ESTALE)
"""Faults for which no setting of a training can be to blame."""
_FREE_SPACE = "what was stored before is safe: free some space and run again"

_WAYS_OUT = {
    errno.EROFS: "make it writable, or copy it to a disk that is and name that folder with --out",
    errno.EACCES: "have its owner let you read and write it (ls -l shows who may), or choose another folder with --out",
    errno.EPERM: "have its owner let you read and write it (ls -l shows who may), or choose another folder with --out",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away, or name another folder",
    errno.EISDIR: "a folder stands where a file is needed: move it away",
    errno.EIO: "the disk or its connection has a fault; see what the system's log says of it, then run again",
    errno.ESTALE: "the network folder was changed elsewhere; mount it again, then run again",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then run again",
    errno.ENFILE: "end other programs, which hold too many files, then run again",
}
_OTHER_WAY_OUT = "see whether the folder is whole and may be written, then run again"


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those from which it came."""
    seen: set[int] = set()
    present: BaseException | None = error
    while present is not None and id(present) not in seen:
        seen.add(id(present))
        yield present
        present = present.__cause__ or present.__context__


def is_full(error: BaseException) -> bool:
    """Return whether an error, or one from which it came, says that a disk or a quota is full."""
    return any(_says_full(link) for link in chain(error))


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL

    text = str(error)
    # What a temporary folder cannot be made for is told as a missing one.
    return any(words in text.lower() for words in _FULL_TEXTS) or _TORN_WRITE in text


def full_disk(where: Path | str | None = None) -> UserError:
    """Return what a person is told of a full disk.

    Args:
        where: The file or folder that could not be written; None if that is not known.
    """
    place = "" if where is None else f"{where}: "
    if where is not None and _has_no_inodes(Path(where)):
        return UserError(
            f"{place}no space left on the disk for another file (df -i shows its inodes); what was stored before is "
            "safe: delete files that nobody needs and run again",
            3,
        )
    return UserError(f"{place}no space left on the disk; {_FREE_SPACE}", 3)


def disk_fault_of_training(error: BaseException) -> str:
    """Return what a person is told when a training met a fault of the disk, "" if its error is another.

    Args:
        error: What the trainer raised.
    """
    in_one_line = " ".join(f"{type(error).__name__}: {error}".split())
    if is_full(error):
        return f"a training found no space left on the disk ({in_one_line}); {_FREE_SPACE}"
    if any(isinstance(link, OSError) and link.errno in _OF_THE_DISK for link in chain(error)):
        return f"a training met a fault of the disk ({in_one_line}); mend that and run again: what is stored is safe"
    return ""


def _has_no_inodes(path: Path) -> bool:
    for folder in (path, *path.parents):
        try:
            disk = os.statvfs(folder)
        except OSError:
            continue
        return disk.f_files > 0 and disk.f_favail == 0
    return False


def explain_os_error(error: OSError, where: Path | None = None) -> UserError:
    """Return what a person is told of a file that could not be read or written.

    Args:
        error: What the system said.
        where: The folder that was worked on, where the error names no file.
    """
    name = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else where
    place = None if name is None else os.fsdecode(name)
    if is_full(error):
        return full_disk(place)

    if error.errno == errno.ENOENT and "temporary directory" in str(error.strerror):
        return UserError(
            "there is no folder for temporary files that can be written (tried TMPDIR, /tmp, /var/tmp); "
            "free some space there, or set TMPDIR to another folder, and run again",
            3,
        )

    reason = error.strerror or str(error) or type(error).__name__
    way_out = _WAYS_OUT.get(error.errno or 0, _OTHER_WAY_OUT)
    said = f"{reason}; {way_out}" if place is None else f"{place}: {reason}; {way_out}"
    return UserError(said, 3)
