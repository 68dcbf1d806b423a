"""What the commands answer that train, or use, one model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict

from autotune.cli.answers.base import Answer


class Trained(Answer):
    """What became of the training of one configuration file."""

    schema_name: Literal["autotune.train/1"] = "autotune.train/1"

    exit_code: int
    """0 done, 130 stopped: the same command goes on."""
    folder: str
    """Checkpoints, weights and export."""
    tokens: int
    """Length that was asked for."""
    seen_tokens: int
    """Where the last evaluation was; 0 before the first."""
    loss: float | None
    """That of the last evaluation."""
    next: str | None
    """The command that goes on; null if it is done."""


class Generated(Answer):
    """Text from a trained model."""

    schema_name: Literal["autotune.generate/1"] = "autotune.generate/1"

    model: str
    """What was read: the folder or file."""
    prompt: str
    text: str
    """What the model wrote after it."""


class Evaluated(Answer):
    """How well a trained model does on a text. The other keys are what its trainer measures."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Any]

    schema_name: Literal["autotune.evaluate/1"] = "autotune.evaluate/1"
