"""Where a command's words go: with `--json` one JSON object on stdout, and everything for people on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from autotune.cli.answers.base import Answer

FLAG = "--json"


class _Stdout:
    """The process's own standard output, while file descriptor 1 leads to stderr."""

    kept: TextIO | None = None


def is_for_programs() -> bool:
    """Return whether the command was asked for JSON."""
    return _Stdout.kept is not None


@contextlib.contextmanager
def for_programs(asked: bool) -> Iterator[None]:
    """Keep stdout for answers; whatever else is printed, by a trainer or a child too, goes to stderr meanwhile.

    Args:
        asked: Whether JSON is asked for; nothing is changed otherwise.
    """
    if not asked:
        yield
        return

    sys.stdout.flush()
    _Stdout.kept = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os.dup2(_Stdout.kept.fileno(), 1)
        _Stdout.kept.close()
        _Stdout.kept = None


def answer(told: Answer) -> None:
    """Print an answer."""
    with contextlib.suppress(BrokenPipeError):
        write(told.to_text() + "\n")


def write(text: str) -> None:
    """Write to stdout at once.

    Args:
        text: JSON.

    Raises:
        BrokenPipeError: If its reader has left; nothing is written any more then.
    """
    out = _Stdout.kept or sys.stdout
    try:
        out.write(text)
        out.flush()
    except BrokenPipeError:
        # What is still in its buffer would be tried again, and told of, as the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        raise


def descriptor() -> int | None:
    """Return the file descriptor of stdout, None where it has none."""
    out = _Stdout.kept or sys.stdout
    try:
        return out.fileno()
    except (OSError, ValueError):
        return None
