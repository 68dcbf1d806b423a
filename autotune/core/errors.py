"""Errors that a user can correct."""

from __future__ import annotations

from autotune.core.secrets import without_passwords


class UserError(Exception):
    """An error that a user can correct: the message says what, the value, where and what to do.

    Args:
        message: One or more lines for the user; passwords of URLs are left out.
        exit_code: What the command ends with (2 usage or study file, 3 environment, 4 no trial finished,
            5 held by another run).
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(without_passwords(message))
        self.exit_code = exit_code

    def _render_traceback_(self) -> list[str]:
        """Show a notebook the message alone: IPython asks for it under this name."""
        return [f"{type(self).__name__}: {self}"]


def exit_code_of(error: BaseException, otherwise: int) -> int:
    """Return what a command ends with for an error that a trainer raised.

    Args:
        error: It may have an attribute `exit_code`: 2 for what the study file says, 3 for the machine or the network.
        otherwise: The exit code of one that has none.
    """
    code = getattr(error, "exit_code", otherwise)
    return code if code in (2, 3) else otherwise
