"""Text for a person's terminal, which names from outside cannot steer and a closed pipe cannot stop."""

from __future__ import annotations

import os
import re
import sys

import typer


def plain(text: str) -> str:
    """Returns a text in which control characters, of names for example, cannot steer a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def say(line: str, end: str = "\n") -> None:
    """Prints one line for a person, or a piece of one; control characters in names stay text."""
    try:
        typer.echo(plain(line) + end, nl=False)
        sys.stdout.flush()
    except OSError:
        # The terminal was closed or the pipe's reader has left: the night goes on without an audience.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
