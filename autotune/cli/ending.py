"""How a command ends when it cannot do what was asked: one sentence on stderr and an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from autotune.cli import output
from autotune.core.errors import UserError
from autotune.core.text import plain, reason
from autotune.machine.nvml import NvmlError
from autotune.store.faults import explained

if TYPE_CHECKING:
    from autotune.cli.answers.errors import Kind

ENVIRONMENT, INTERRUPTED = 3, 130
"""Exit codes."""
_STOPPED = "stopped before anything was trained; nothing is lost"


class Commands(TyperGroup):
    """All commands; Ctrl-C ends each of them with a sentence, and wrong usage with JSON where that is asked for."""

    def invoke(self, ctx: Any) -> Any:
        """See click.Group."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise UserError(_STOPPED, INTERRUPTED) from None
        except TyperException as error:
            words = getattr(error, "format_message", None)
            if words is None or not output.is_for_programs():
                raise
            raise UserError(words()) from None


@contextlib.contextmanager
def explain_failures() -> Iterator[None]:
    """End the process with a sentence and an exit code where a command raises what a user can do something about."""
    try:
        yield
    except UserError as error:
        _end(error)
    except NvmlError as error:
        _end(UserError(f"{error}; see `autotune doctor`", ENVIRONMENT))
    except KeyboardInterrupt:
        _end(UserError(_STOPPED, INTERRUPTED))
    except Exception as error:
        # A full disk, a folder that may not be written, a name that is too long, a database that fails.
        told = explained(error)
        if told is None:
            _answer(UserError(reason(error), 1), "unexpected")
            raise
        _end(told)


def _end(error: UserError) -> None:
    _answer(error)
    # Nobody may be left to read it.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        typer.echo(plain(str(error)), err=True)
    raise SystemExit(error.exit_code) from None


def _answer(error: UserError, kind: Kind | None = None) -> None:
    """Tell programs of an error, where the command is asked for JSON."""
    if not output.is_for_programs():
        return

    from autotune.cli.answers.errors import error_of

    # On one line, as events are.
    with contextlib.suppress(BrokenPipeError):
        output.write(error_of(error, kind).to_text(indent=None) + "\n")
