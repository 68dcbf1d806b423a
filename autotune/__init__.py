"""The search engine: study files, trials, finals and promotion; from Python `run`, `tune` and `load`.

Importing it loads neither torch nor Optuna: what it offers is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.api.calls import load, run, tune
    from autotune.api.tuned import Tuned
    from autotune.core.errors import UserError

__all__ = ["Tuned", "UserError", "load", "run", "tune"]

_HOMES = {
    "load": "autotune.api.calls",
    "run": "autotune.api.calls",
    "tune": "autotune.api.calls",
    "Tuned": "autotune.api.tuned",
    "UserError": "autotune.core.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
