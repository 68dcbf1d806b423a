"""Trainers that behave in ways a worker must cope with, and config types that a trainer may have."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from decimal import Decimal

Report = Callable[[Mapping[str, float]], bool]


@dataclass
class Settings:
    """A config as a dataclass."""

    lr: float = 0.1
    layers: int = 2


class Lenient(BaseModel):
    """A config that ignores what it does not know."""

    lr: float = 0.1
    seed: int = 0


class Opaque:
    """A class that pydantic knows nothing about."""


def with_dataclass(config: Settings, budget_tokens: int, report: Report) -> Mapping[str, Any]:
    """Says which type it was given."""
    return {"type": type(config).__name__, "lr": config.lr}


def with_mapping(config: dict[str, Any], budget_tokens: int, report: Report) -> None:
    """Returns nothing."""


def diverges(config: dict[str, Any], budget_tokens: int, report: Report) -> None:
    """Reports the loss that it is told, twice."""
    for tokens in (5, 10):
        report({"tokens_seen": tokens, "val_loss": float(config["loss"])})


def lenient(config: Lenient, budget_tokens: int, report: Report) -> None:
    """Trains nothing."""


def unresolved(config: Decimal, budget_tokens: int, report: Report) -> None:
    """Its annotation does not exist at run time."""


def opaque(config: Opaque, budget_tokens: int, report: Report) -> None:
    """Its annotation is no type of pydantic's."""


def no_parameters() -> None:
    """Takes nothing."""


def prints(config: dict[str, Any], budget_tokens: int, report: Report) -> None:
    """Prints in every way there is."""
    print("by print")
    print("by stderr", file=sys.stderr)
    os.write(1, b"by write\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"by a C library")
    libc.fflush(None)
    report({"tokens_seen": budget_tokens, "val_loss": 1.0})


def raises(config: dict[str, Any], budget_tokens: int, report: Report) -> None:
    """Raises what the config names, over two lines."""
    report({"tokens_seen": 1, "val_loss": 1.0})
    name = config["error"]
    error: type[Exception] = type(name, (RuntimeError,), {}) if name == "OutOfMemoryError" else __builtins__[name]  # type: ignore[index]
    raise error("first line\n  second line")


def reports(config: dict[str, Any], budget_tokens: int, report: Report) -> None:
    """Reports what it is told."""
    report(config)


def returns_oddities(config: dict[str, Any], budget_tokens: int, report: Report) -> Mapping[str, Any]:
    """Returns what neither JSON nor pickle knows."""
    return {"path": Path("weights"), "function": lambda: None, "number": 3}


def keeps_its_config(config: dict[str, Any], budget_tokens: int, report: Report) -> None:
    """Writes its config into its folder."""
    (Path(config["output"]["dir"]) / "config.json").write_text(json.dumps(config))


def environment(config: dict[str, Any], budget_tokens: int, report: Report) -> Mapping[str, Any]:
    """Says what it sees."""
    return {"device": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}


def dies(config: dict[str, Any], budget_tokens: int, report: Report) -> None:
    """Dies of a signal."""
    os.kill(os.getpid(), getattr(signal, config["signal"]))


def exits(config: dict[str, Any], budget_tokens: int, report: Report) -> None:
    """Ends its process."""
    os._exit(7)


def waits_for_ever(config: dict[str, Any], budget_tokens: int, report: Report) -> None:
    """Reports once and then never returns."""
    report({"tokens_seen": 1, "val_loss": 1.0})
    while True:
        signal.pause()
