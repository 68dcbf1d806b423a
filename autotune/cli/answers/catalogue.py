"""Every answer by its command, and the JSON schemas of all of them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from autotune.cli.answers.errors import Error
from autotune.cli.answers.events import Watched
from autotune.cli.answers.machine import Doctor, Profile
from autotune.cli.answers.models import Evaluated, Generated, Trained
from autotune.cli.answers.studies import (
    Begun,
    Cloned,
    Compared,
    Planned,
    Promote,
    Record,
    Replayed,
    Reported,
    Run,
    Status,
    Steered,
    Stopped,
    Submitted,
    Timeline,
)

ANSWERS: dict[str, type[BaseModel]] = {
    "clone": Cloned,
    "compare": Compared,
    "doctor": Doctor,
    "error": Error,
    "evaluate": Evaluated,
    "generate": Generated,
    "init": Begun,
    "plan": Planned,
    "profile": Profile,
    "promote": Promote,
    "record": Record,
    "replay": Replayed,
    "report": Reported,
    "run": Run,
    "status": Status,
    "steer": Steered,
    "stop": Stopped,
    "submit": Submitted,
    "timeline": Timeline,
    "train": Trained,
    "watch": Watched,
}
"""What each command answers; "error" is what any of them answers that could not do what was asked."""


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schema (draft 2020-12) of each answer, by its command."""
    return {command: kind.model_json_schema(mode="serialization") for command, kind in ANSWERS.items()}
