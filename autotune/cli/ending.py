"""How a command ends when it cannot do what was asked: one sentence on stderr and an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from autotune.core.errors import UserError
from autotune.core.text import plain
from autotune.machine.nvml import NvmlError
from autotune.store.faults import explained

ENVIRONMENT, INTERRUPTED = 3, 130
"""Exit codes."""
_STOPPED = "stopped before anything was trained; nothing is lost"


class Commands(TyperGroup):
    """All commands; Ctrl-C ends each of them with a sentence."""

    def invoke(self, ctx: Any) -> Any:
        """See click.Group."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise UserError(_STOPPED, INTERRUPTED) from None


@contextlib.contextmanager
def explain_failures() -> Iterator[None]:
    """End the process with a sentence and an exit code where a command raises what a user can do something about."""
    try:
        yield
    except UserError as error:
        _end(str(error), error.exit_code)
    except NvmlError as error:
        _end(f"{error}; see `autotune doctor`", ENVIRONMENT)
    except KeyboardInterrupt:
        _end(_STOPPED, INTERRUPTED)
    except Exception as error:
        # A full disk, a folder that may not be written, a name that is too long, a database that fails.
        told = explained(error)
        if told is None:
            raise
        _end(str(told), told.exit_code)


def _end(message: str, exit_code: int) -> None:
    # Nobody may be left to read it.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        typer.echo(plain(message), err=True)
    raise SystemExit(exit_code) from None
