"""What is said at the end of a command on a study."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import pytest

from autotune.cli.studies import _how_to_call


def test_it_is_said_how_to_call_a_command_that_is_not_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert _how_to_call() == [], "nobody reads it"

    keyboard, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as shown, os.fdopen(keyboard):
        monkeypatch.setattr(sys, "stdout", shown)
        assert _how_to_call() == ["(first, once in each terminal: source .venv/bin/activate)"]
        (tmp_path / "autotune").write_text("#!/bin/sh\n")
        (tmp_path / "autotune").chmod(0o755)
        assert _how_to_call() == []
