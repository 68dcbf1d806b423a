"""The three standard streams, made fit for use whatever the shell or a service manager gave us."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def prepare_streams() -> None:
    """Open closed streams on nothing, and let characters that the console's encoding lacks be replaced.

    A closed descriptor must be taken before a file of ours is opened under its number: whatever is printed, by us or by
    a child, would end up in that file.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            _open_on_nothing(number, name, mode)

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _open_on_nothing(number: int, name: str, mode: str) -> None:
    """Open a standard stream on nothing, under its own number, which children inherit."""
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != number:
        os.dup2(nothing, number)
        os.close(nothing)
    os.set_inheritable(number, True)

    stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process
    setattr(sys, name, stream)


def restore_help(commands: Iterable[Callable[..., Any] | None]) -> None:
    """Give commands back the docstrings, which are their help, where PYTHONOPTIMIZE=2 has taken them away.

    Args:
        commands: Functions of the command line.
    """
    for command in commands:
        if command is None or command.__doc__:
            continue
        with contextlib.suppress(OSError, SyntaxError):
            command.__doc__ = _docstrings(inspect.getfile(command)).get(command.__name__)


@functools.cache
def _docstrings(file: str) -> dict[str, str]:
    """Return the docstrings of a source file's functions by name."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {function.name: ast.get_docstring(function) or "" for function in functions}
