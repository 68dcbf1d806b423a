"""The fake trainer on a text file, which it makes ready beforehand and whose content its trainings name."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


class Data(BaseModel):
    """Where the text is, what it has to be, and how long it takes to be made ready."""

    model_config = ConfigDict(extra="forbid")
    path: str = "text.txt"
    expected_hash: str = ""
    prepares_s: float = 0.0


class Config(BaseModel):
    """A learning rate and a text."""

    model_config = ConfigDict(extra="forbid")
    seed: int = 0
    lr: float = 0.05
    width: int = 8
    data: Data = Data()


class TextError(ValueError):
    """A text that cannot be used, with the setting that says where it is."""

    setting = "data.path"


def _hash(config: Config) -> str:
    path = Path(config.data.path)
    if not path.exists():
        raise TextError(f"no file at {path}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if config.data.expected_hash not in ("", found):
        raise TextError(f"{path} has changed")
    return found


def prepare_training(configs: Sequence[Config], budget_tokens: int, say: Callable[[str], None]) -> Mapping[str, Any]:
    """Read each text once, when the time has come."""
    end = time.monotonic() + configs[0].data.prepares_s
    while time.monotonic() < end:
        say.preparing(f"fetching the text: {end - time.monotonic():.0f} s left")  # type: ignore[attr-defined]
        time.sleep(0.05)

    hashes = [_hash(config) for config in configs]
    say(f"data: {len(hashes)} configurations are ready")
    return {"data_hash": hashes[0]}


def train(config: Config, budget_tokens: int, report: Callable[[Mapping[str, float]], bool]) -> Mapping[str, Any]:
    """Report two points of a known curve."""
    data_hash = _hash(config)
    for tokens in (budget_tokens // 2, budget_tokens):
        report({"tokens_seen": tokens, "val_loss": 2 + config.lr + budget_tokens / tokens, "tokens_per_s": 1e6})
    return {"data_hash": data_hash}
