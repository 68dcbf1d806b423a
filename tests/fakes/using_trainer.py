"""A user's own trainer whose models can be used, in its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def train(config: dict[str, Any], budget_tokens: int, report: Callable[[Mapping[str, float]], bool]) -> None:
    """Trains nothing."""


def generate_text(path: Path, prompt: str, write: Callable[[str], None], **settings: float) -> None:
    """Writes what it was told, piece by piece; without a model it says so."""
    if not (path / "weights").exists():
        raise FileNotFoundError(f"{path}: no weights")
    if prompt == "odd":
        raise ValueError("cannot continue this")
    for piece in (" ", (path / "weights").read_text(), "\x1b[31m", *(f" {key}={settings[key]}" for key in settings)):
        write(piece)


def evaluate_weights(path: Path, data: str, num_tokens: int) -> Mapping[str, Any]:
    """Measures nothing."""
    return {"tokens": num_tokens or 12_345, "loss": 2.5, "bits_per_byte": 1.25, "text": data or "held out"}
