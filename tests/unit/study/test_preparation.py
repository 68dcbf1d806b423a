"""Faults of a trainer's preparation, each with its exit code and a way out."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from fake_trainer import FakeConfig
from fake_trainer import train as train

from autotune.core.errors import UserError
from autotune.study.preparation import prepare
from autotune.study.trainer import load_trainer

FAULT: list[Exception] = []


def prepare_training(
    configs: Sequence[FakeConfig], budget_tokens: int, say: Callable[[str], None]
) -> Mapping[str, Any]:
    """Raise what a test asks for."""
    raise FAULT[-1]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/cache/x"), 3, "/cache/x: no space left on the disk; "),
        # As the tokenizers' library says it.
        (Exception("No space left on device (os error 28)"), 3, "no space left on the disk; "),
        (OSError(errno.EROFS, "Read-only file system", "/cache"), 3, "/cache: Read-only file system; make it writable"),
        (RuntimeError("broken"), 1, "RuntimeError: broken"),
    ],
)
def test_what_a_preparation_raises_is_told_with_the_way_out(error: Exception, code: int, words: str) -> None:
    FAULT.append(error)
    with pytest.raises(UserError) as told:
        prepare(load_trainer(f"{__name__}:train"), [{}], 100, print, print)
    assert str(told.value).startswith(f"the data cannot be made ready: {words}")
    assert told.value.exit_code == code
