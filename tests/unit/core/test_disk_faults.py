"""Faults of a disk are known by their numbers, by their texts and by what they led to, and told with a way out."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from autotune.core.disk_faults import disk_fault_of_training, explain_os_error, is_full


def _raised_from(cause: BaseException) -> Exception:
    try:
        raise ValueError("the checkpoint was not written") from cause
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
        _raised_from(OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_full_disk_is_known(error: Exception) -> None:
    assert is_full(error)
    assert "free some space and run again" in disk_fault_of_training(error)


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "No such file"), ValueError("the loss is nan"), MemoryError()])
def test_other_errors_are_not_of_the_disk(error: Exception) -> None:
    assert not is_full(error) and disk_fault_of_training(error) == ""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EROFS, "copy it to a disk that is and name that folder with --out"),
        (errno.EACCES, "ls -l shows who may"),
        (errno.EIO, "run again"),
        (errno.ENAMETOOLONG, "run again"),
    ],
)
def test_a_sentence_names_the_file_the_reason_and_the_way_out(code: int, words: str) -> None:
    told = explain_os_error(OSError(code, os.strerror(code), "runs/s/spec.json"))
    assert told.exit_code == 3
    assert str(told).startswith(f"runs/s/spec.json: {os.strerror(code)}; ") and words in str(told)
    assert str(explain_os_error(OSError(code, os.strerror(code)), Path("runs"))).startswith("runs: ")
