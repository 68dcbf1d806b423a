"""What a command answers that could not do what was asked."""

from __future__ import annotations

import re
from typing import Literal

from autotune.cli.answers.base import Answer, Part
from autotune.core.errors import UserError
from autotune.study.errors import StudyFileError

Kind = Literal[
    "failed", "usage", "study file", "machine", "no trial finished", "held by another process", "stopped", "unexpected"
]
_KINDS: dict[int, Kind] = {
    1: "failed", 2: "usage", 3: "machine", 4: "no trial finished", 5: "held by another process", 130: "stopped",
}  # fmt: skip
# A line of a study file's errors: "my-study.toml:12 space.lr.low: what is wrong".
_PLACE = re.compile(r"(?P<where>\S+:[0-9]+|--set [^:]*)(?P<key> [^:]+)?: (?P<message>.*)")


class Fault(Part):
    """One of several faults, as a study file may have them."""

    where: str | None
    """File and line, or the option that says it; null where it has no place."""

    key: str | None
    """The setting, by its dotted path; null where it is none."""

    message: str
    """What is wrong, and what to do."""


class Error(Answer):
    """Why a command could not do what was asked."""

    schema_name: Literal["autotune.error/1"] = "autotune.error/1"

    kind: Kind
    """What it is about."""

    message: str
    """What a person is told: what, the value, where, and what to do."""

    where: str | None
    """File and line of the first fault; null where it has no place."""

    what_to_do: str | None
    """The message after its first semicolon, which says what to do; null where it is one clause."""

    faults: list[Fault]
    """Each fault by itself, where there may be several."""

    exit_code: int
    """What the command ends with."""


def error_of(error: UserError, kind: Kind | None = None) -> Error:
    """Return the answer of a command that ends with an error.

    Args:
        error: The error.
        kind: What it is about; None to go by its exit code.
    """
    message = str(error)
    faults = [_fault(line) for line in message.splitlines() if line.strip()]
    if kind is None:
        kind = "study file" if isinstance(error, StudyFileError) else _KINDS.get(error.exit_code, "failed")
    _, _, advice = message.partition("; ")

    return Error(
        kind=kind,
        message=message,
        where=next((fault.where for fault in faults if fault.where), None),
        what_to_do=advice.strip() or None,
        faults=faults,
        exit_code=error.exit_code,
    )


def _fault(line: str) -> Fault:
    match = _PLACE.match(line)
    if match is None:
        return Fault(where=None, key=None, message=line)
    key = match["key"]
    return Fault(where=match["where"], key=key.strip() if key else None, message=match["message"])
